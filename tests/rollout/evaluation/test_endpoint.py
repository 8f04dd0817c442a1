"""The client of chat completions: what it sends, what it tries again, what it gives up."""

from datetime import UTC, datetime

import pytest

from common.errors import ConfigError
from rollout.evaluation.endpoint import (
    ChatClient,
    Completion,
    EndpointFailed,
    ItemRefused,
    base_url,
    chat_body,
    parse_answer,
    retry_after_s,
)
from tests.rollout.evaluation.chat_server import MODEL, Answering, ChatServer, Fault, Said

URL = "data:image/png;base64,AAAA"


def body_of(text: str) -> dict:
    return chat_body(MODEL, text, URL, max_tokens=8)


async def ask(answering: Answering, tries: int = 3, timeout_s: float = 5.0) -> tuple:
    """What comes of one question, and how often the server got it."""
    async with (
        ChatServer(answering).running() as server,
        ChatClient(server.url, timeout_s=timeout_s, tries=tries, first_pause_s=0.001) as client,
    ):
        try:
            return await client.ask(body_of("what?")), len(server.bodies)
        except (ItemRefused, EndpointFailed) as error:
            return error, len(server.bodies)


def test_body_has_the_picture_before_the_text_and_asks_greedily() -> None:
    assert chat_body("m", "what?", URL, max_tokens=7) == {
        "model": "m",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": URL}},
                    {"type": "text", "text": "what?"},
                ],
            }
        ],
        "temperature": 0.0,
        "max_tokens": 7,
    }


@pytest.mark.parametrize("thinking", [True, False])
def test_body_speaks_of_thinking_only_where_it_is_asked_for(thinking: bool) -> None:
    body = chat_body("m", "what?", None, max_tokens=7, thinking=thinking)
    assert body["chat_template_kwargs"] == {"enable_thinking": thinking}
    assert body["messages"][0]["content"] == [{"type": "text", "text": "what?"}]


def test_body_for_our_own_server_leaves_no_sampling_setting_to_the_checkpoint() -> None:
    body = chat_body("m", "what?", None, max_tokens=7, thinking=True, is_ours=True)
    assert body["repetition_penalty"] == 1.0 and "chat_template_kwargs" not in body


async def test_client_returns_text_reason_and_tokens() -> None:
    assert await ask(lambda text, earlier: Said("two words", "length")) == (
        Completion("two words", "length", 2),
        1,
    )


@pytest.mark.parametrize(
    "fault",
    [
        *(Fault("status", status) for status in (408, 429, 500, 502, 503, 529)),
        Fault("reset"),
        Fault("cut"),
        Fault("nonsense"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
async def test_client_tries_again_what_may_pass(fault: Fault) -> None:
    answer, asked = await ask(lambda text, earlier: fault if earlier < 2 else Said("B"))
    assert (answer, asked) == (Completion("B", "stop", 1), 3)


async def test_client_tries_again_what_does_not_come_in_time() -> None:
    answer, asked = await ask(
        lambda text, earlier: Said("B") if earlier else Fault("hang"), timeout_s=3.0
    )
    assert (answer, asked) == (Completion("B", "stop", 1), 2)


async def test_client_gives_up_what_is_late_twice() -> None:
    error, asked = await ask(lambda text, earlier: Fault("hang"), tries=8, timeout_s=0.3)
    assert isinstance(error, EndpointFailed) and asked == 2
    assert "no answer within 0.3 s" in str(error)


async def test_client_gives_up_after_its_tries_and_says_what_the_server_said() -> None:
    error, asked = await ask(lambda text, earlier: Fault("status", 503))
    assert isinstance(error, EndpointFailed) and asked == 3
    assert "HTTP 503: fault 503" in str(error)


@pytest.mark.parametrize(
    ("status", "is_of_the_endpoint"), [(400, False), (413, False), (404, True)]
)
async def test_client_does_not_repeat_what_is_refused(
    status: int, is_of_the_endpoint: bool
) -> None:
    error, asked = await ask(lambda text, earlier: Fault("status", status))
    assert isinstance(error, ItemRefused) and asked == 1
    assert error.is_of_the_endpoint is is_of_the_endpoint


async def test_client_waits_as_long_as_the_server_asks() -> None:
    fault = Fault("status", 429, {"Retry-After": "0"})
    async with (
        ChatServer(lambda text, earlier: Said("B") if earlier else fault).running() as server,
        ChatClient(server.url, first_pause_s=1e6) as client,
    ):
        assert (await client.ask(body_of("what?"))).text == "B"  # the own pause would not end


async def test_client_shows_its_key_and_another_is_refused() -> None:
    async with ChatServer(lambda text, earlier: Said("B"), key="right").running() as server:
        async with ChatClient(server.url, "right") as client:
            assert await client.models() == {MODEL: None}
            assert (await client.ask(body_of("what?"))).text == "B"
        async with ChatClient(server.url, "other") as client:
            with pytest.raises(ItemRefused, match="who are you"):
                await client.models()


async def test_nobody_there_is_an_endpoint_that_failed() -> None:
    async with ChatClient("http://127.0.0.1:9/v1", tries=1) as client:
        with pytest.raises(EndpointFailed, match=r"127\.0\.0\.1:9"):
            await client.ask(body_of("what?"))


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
        ("https://h/api/v1/", "https://h/api/v1"),
        ("https://h/v1beta/openai", "https://h/v1beta/openai"),
    ],
)
def test_a_url_gets_the_path_of_the_api_where_it_has_none(text: str, url: str) -> None:
    assert base_url(text) == url


@pytest.mark.parametrize("text", ["h:1", "ftp://h", "http://", "http://h:x", "http://k@h/v1?a=1"])
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="Fix: "):
        base_url(text)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7.0),
        ("Mon, 30 Nov 2026 12:00:30 GMT", 30.0),
        ("Mon, 30 Nov 2026 11:00:00 GMT", 0.0),
        ("86400", 300.0),
        ("soon", None),
        ("-1", None),
        ("", None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_bounded(said: str, seconds: float | None) -> None:
    now = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)
    assert retry_after_s({"Retry-After": said}, now) == seconds


def test_an_answer_without_content_is_empty_for_it_was_cut_while_thinking() -> None:
    choice = {"message": {"content": None}, "finish_reason": "length"}
    assert parse_answer({"choices": [choice]}) == Completion("", "length", None)


@pytest.mark.parametrize("content", [[], {}, {"choices": []}, {"choices": [{}]}, None, "text"])
def test_an_answer_without_completion_is_a_failure(content: object) -> None:
    with pytest.raises(EndpointFailed, match="no completion"):
        parse_answer(content)
