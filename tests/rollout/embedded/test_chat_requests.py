"""The body of a chat request: what it becomes, and that what is not supported is refused."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoProcessor, GenerationConfig

from common.config import PromptSection
from rollout.embedded.chat_requests import parse_chat, sampling_defaults, template_messages
from rollout.embedded.chat_template import ChatTemplate
from rollout.embedded.requests import BadRequest, VocabularyFacts
from tests.rollout.support import data_url, png

VOCABULARY = VocabularyFacts(30, frozenset([2]))
SWITCHING = "{{ messages[0].content }}{% if enable_thinking %} <think>{% else %} now{% endif %}"


def user(content) -> dict:
    return {"role": "user", "content": content}


def parse(defaults=None, **fields):
    return parse_chat({"messages": [user("which")], **fields}, VOCABULARY, defaults or {})


def test_what_a_request_leaves_out_is_the_checkpoints_and_then_openais():
    law = parse().law
    assert (law.temperature, law.top_p, law.top_k, law.min_p) == (1.0, 1.0, -1, 0.0)
    assert law.stop_token_ids == {2}
    defaults = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
    law = parse(defaults).law
    assert (law.temperature, law.top_p, law.top_k) == (0.7, 0.8, 20)
    law = parse(defaults, temperature=0, top_k=-1).law
    assert (law.temperature, law.top_p, law.top_k) == (0.0, 0.8, -1)


def test_the_checkpoints_defaults_are_read_from_its_generation_config():
    config = GenerationConfig(temperature=0.7, top_k=20, repetition_penalty=1.05)
    found = sampling_defaults(config)
    assert found == {"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.05}


def test_a_penalty_of_the_checkpoint_has_to_be_called_off():
    with pytest.raises(BadRequest, match=r"repetition_penalty = 1\.05.*Fix: send"):
        parse({"repetition_penalty": 1.05})
    assert parse({"repetition_penalty": 1.05}, repetition_penalty=1).law.temperature == 1.0


def test_pictures_are_taken_in_the_order_of_the_messages():
    images = [png(8, 8, seed=seed) for seed in range(3)]
    parts = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    text = {"type": "text", "text": "which"}
    chat = parse(messages=[user([parts[0], text, parts[1]]), user([parts[2]])])
    assert chat.images == tuple(images)
    image = {"type": "image"}
    assert template_messages(chat.request) == [user([image, text, image]), user([image])]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tools": [{"type": "function"}]}, "tools is not supported"),
        ({"response_format": {"type": "json_object"}}, r"response_format\.type"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": -1}, "presence_penalty"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"no_such_field": 1}, "no_such_field is not supported"),
        ({"top_logprobs": 2}, "needs logprobs = true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 1025}, "n: "),
        ({"chat_template_kwargs": {"budget": 3}}, r"chat_template_kwargs\.budget is not supported"),
        ({"stream_options": {"continuous_usage_stats": True}}, "continuous_usage_stats"),
        ({"messages": [{"role": "tool", "content": "which"}]}, r"messages\.0\.role"),
        ({"messages": [user([{"type": "video_url"}])]}, r"messages\.0\.content.*video_url"),
        ({"messages": [user([{"type": "text"}])]}, r"messages\.0\.content.*text: Field required"),
        ({"messages": [{"role": "assistant", "content": "it is"}]}, "Fix: end with the user's"),
        (
            {"messages": [user([{"type": "image_url", "image_url": {"url": "/etc/hosts"}}])]},
            "image_url of picture 0 takes data URLs alone",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(fields, named):
    with pytest.raises(BadRequest, match=named):
        parse(**fields)


def test_fields_that_are_null_or_change_nothing_are_taken():
    parse(tools=None, tools_choice=None, temperature=None, no_such_field=False, user="me",
          frequency_penalty=0, response_format={"type": "text"}, stop=None)  # fmt: skip


@pytest.fixture
def template(checkpoint, tmp_path):
    """A chat template whose text is given."""

    def make(text: str, **prompt) -> ChatTemplate:
        folder = tmp_path / "checkpoint"
        shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
        Path(folder / "chat_template.jinja").write_text(text)
        return ChatTemplate(AutoProcessor.from_pretrained(folder), PromptSection(**prompt))

    return make


def test_it_thinks_as_the_server_was_started_unless_it_is_asked(template):
    for thinking in (False, True):
        usual = template(SWITCHING, thinking=thinking)
        messages = [user("which")]
        found = [usual.text(messages, asked) for asked in (None, False, True)]
        assert found[1:] == ["which now", "which <think>"]
        assert found[0] == found[1 + thinking]


def test_a_template_without_the_switch_is_not_told(template):
    plain = template("{{ messages[0].content }}")
    assert plain.text([user("which")], True) == "which"


def test_messages_that_the_template_refuses_are_the_clients_fault(template):
    strict = template("{{ raise_exception('no system turn here') }}")
    with pytest.raises(BadRequest, match=r"messages: .*no system turn here"):
        strict.text([user("which")], None)


def test_another_template_may_be_named(template, tmp_path):
    own = tmp_path / "own.jinja"
    own.write_text("own {{ messages[0].content }}")
    assert template("other", chat_template=own).text([user("which")], None) == "own which"
