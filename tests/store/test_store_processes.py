"""Several processes on one database: nothing is lost, nothing doubled, and one makes the table."""

from contextlib import ExitStack

from children import child

READY = """
import asyncio, sys
from record_values import record
from distill.config import StoreConfig
from distill.store import Store

print("ready", flush=True)
sys.stdin.readline()
store = Store(StoreConfig(url=sys.argv[1], wait_s=60))
first = int(sys.argv[2])
"""
OPENS = READY + "print(store.count(), flush=True)\n"
PUTS = (
    READY
    + """
async def main():
    # A hundred of its own, and twenty that the others put, too.
    ids = [*range(first, first + 100), *range(20)]
    await asyncio.gather(*(store.put(record(i)) for i in ids))

asyncio.run(main())
store.close()
print("done", flush=True)
"""
)


def side_by_side(code: str, url: str, processes: int) -> list[str]:
    """Start the code in several processes, let all go at once, and return what each says last."""
    with ExitStack() as stack:
        running = [
            stack.enter_context(child(code, url, str(1000 * (i + 1)))) for i in range(processes)
        ]
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [process.communicate(timeout=120)[0].strip() for process in running]


def test_processes_that_start_at_once_make_one_table(url, open_store):
    assert side_by_side(OPENS, url, 4) == ["0"] * 4
    assert open_store(url).count() == 0


def test_four_processes_on_postgresql_lose_and_double_nothing(postgres, open_store):
    url = postgres.new_database()
    assert side_by_side(PUTS, url, 4) == ["done"] * 4
    found = [int(item.id, 16) for item in open_store(url).records()]
    own = [i for first in (1000, 2000, 3000, 4000) for i in range(first, first + 100)]
    assert sorted(found) == [*range(20), *own]
