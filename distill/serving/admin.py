"""Endpoints for the admin's key: the rollout's mode, and the config read again."""

from typing import Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from distill.errors import InputError, StoreError
from distill.serving.access import Access, bearer
from distill.serving.gateway import Gateway
from distill.serving.openapi import OF_ADMINS
from distill.serving.rollout import Mode


class RolloutChange(BaseModel):
    """What `PUT /admin/rollout` takes."""

    model_config = ConfigDict(extra="forbid")
    mode: Literal["off", "shadow", "canary", "on"]


class RolloutState(BaseModel):
    """What the admin endpoints tell."""

    mode: Mode
    configured: Mode


def require_admin(access: Access, request: Request) -> None:
    """Raise HTTPException 401 for a request without the admin's key as bearer."""
    if not access.is_admin(bearer(request.headers.get("authorization"))):
        raise HTTPException(401, "no such admin key", {"www-authenticate": "Bearer"})


def admin_routes(gateway: Gateway) -> APIRouter:
    """The routes under `/admin`."""

    def key(request: Request) -> None:
        require_admin(gateway.access, request)

    router = APIRouter(prefix="/admin", dependencies=[Depends(key)], responses=OF_ADMINS)

    def state() -> RolloutState:
        return RolloutState(mode=gateway.rollout.mode, configured=gateway.config.rollout.mode)

    @router.get("/rollout")
    async def rollout() -> RolloutState:
        """The mode as it is, and as the config has it."""
        return state()

    @router.put("/rollout")
    async def switch(change: RolloutChange) -> RolloutState:
        """Switch the mode, of all processes; it holds until the config's own mode changes."""
        try:
            await gateway.mode.switch(change.mode)
        except StoreError as error:
            raise HTTPException(503, str(error), {"retry-after": "1"}) from None
        return state()

    @router.post("/reload")
    async def reload() -> RolloutState:
        """Read the config file again."""
        try:
            gateway.reload()
        except InputError as error:
            raise HTTPException(400, str(error)) from None
        return state()

    return router
