"""Asks a server through OpenAI's own client.

    python -m venv venv && venv/bin/pip install openai          (3.54.0 is what was used)
    EMBERLM_API_KEY=secret emberlm serve RUN --port 8000 &
    venv/bin/python tests/python/check_openai.py http://127.0.0.1:8000 secret

Lists the models, completes and chats, whole and streamed, and expects that errors come as the
classes that the client has for them. `tests/all/serve_limits.rs` runs it where EMBERLM_PYTHON
names a Python that has the client.
"""

import asyncio
import sys

import openai

url, key = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)

models = [model.id for model in client.models.list()]
model = models[0]
assert client.models.retrieve(model).owned_by == "emberlm"

# Completions: whole, streamed, several, with log-probabilities.
settings = dict(model=model, prompt="a", max_tokens=20, temperature=0.9, seed=3, n=2, logprobs=2)
whole = client.completions.create(**settings)
assert whole.object == "text_completion" and len(whole.choices) == 2
for choice in whole.choices:
    scores = choice.logprobs
    assert len(scores.tokens) == len(scores.token_logprobs) == len(scores.top_logprobs) > 0
    assert all(len(top) <= 2 for top in scores.top_logprobs)
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
texts, usage = {}, None
options = {"include_usage": True}
for chunk in client.completions.create(**settings, stream=True, stream_options=options):
    usage = chunk.usage or usage
    for choice in chunk.choices:
        texts[choice.index] = texts.get(choice.index, "") + choice.text
assert texts == {choice.index: choice.text for choice in whole.choices}
assert usage == whole.usage
more = client.completions.create(
    model=model, prompt=["a", "b"], max_tokens=3, extra_body={"top_k": 5, "min_p": 0.1}
)
assert [choice.index for choice in more.choices] == [0, 1]

# Chats.
messages = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": [{"type": "text", "text": "a"}]},
]
settings = dict(model=model, messages=messages, max_completion_tokens=10, seed=5, temperature=1.2)
settings |= dict(extra_body={"overflow": "slide"}, logprobs=True, top_logprobs=3)
chat = client.chat.completions.create(**settings)
[choice] = chat.choices
assert chat.object == "chat.completion" and choice.message.role == "assistant"
assert choice.finish_reason in ("stop", "length")
assert all(len(token.top_logprobs) == 3 for token in choice.logprobs.content)
assert bytes(choice.logprobs.content[0].bytes).decode(errors="replace") == choice.logprobs.content[0].token
chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**settings, stream=True)]
assert chunks[0].delta.role == "assistant"
assert "".join(chunk.delta.content or "" for chunk in chunks) == choice.message.content
assert chunks[-1].finish_reason == choice.finish_reason

# A stop string, and a stream that is closed early.
stopped = client.completions.create(model=model, prompt="a", max_tokens=50, seed=1, stop=list("eat "))
assert not set(stopped.choices[0].text) & set("eat ")
stream = client.completions.create(model=model, prompt="a", max_tokens=2000, stream=True,
                                   extra_body={"overflow": "slide"})
next(iter(stream))
stream.close()


# Many at a time.
async def all_at_once():
    many = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key)
    ask = lambda n: many.completions.create(model=model, prompt="a", max_tokens=20, seed=n)
    return [answer.choices[0].text for answer in await asyncio.gather(*map(ask, range(16)))]


together = asyncio.run(all_at_once())
alone = client.completions.create(model=model, prompt="a", max_tokens=20, seed=0, n=16)
assert together == [choice.text for choice in alone.choices]


# Errors.
def fails(kind, ask, part):
    try:
        ask()
    except kind as error:
        assert part in str(error), error
        return error
    raise AssertionError(f"no {kind}")


complete = client.completions.create
fails(openai.NotFoundError, lambda: complete(model="none", prompt="a"), "no model `none`")
error = fails(openai.BadRequestError, lambda: complete(model=model, prompt="a", temperature=-1),
              "temperature = -1")
assert error.type == "invalid_request_error"
error = fails(openai.BadRequestError, lambda: complete(model=model, prompt="a", suffix="b"), "suffix")
assert error.param == "suffix"
stranger = openai.OpenAI(base_url=f"{url}/v1", api_key="other")
fails(openai.AuthenticationError, stranger.models.list, "not the key")
print(f"openai {openai.__version__}: all as it should be")
