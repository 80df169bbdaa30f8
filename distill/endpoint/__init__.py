"""A client of any OpenAI-compatible chat-completions endpoint: bounded, patient, and remembering.

    request   a conversation and its tools as the API wants them
    pace      when the next request may go out
    cache     the answers had so far, on disk
    answer    what came back, read as a decision or as the reason why there is none
    client    puts these together

Whatever an endpoint does, an `Answer` comes of it. The key comes from the environment and stands in
no file, log, answer or error.
"""

from distill.endpoint.answer import Answer
from distill.endpoint.client import Endpoint

__all__ = ["Answer", "Endpoint"]
