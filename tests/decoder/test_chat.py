"""Facts put to a model through its own chat template."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from errata.decoder.decoder import Decoder
from errata.decoder.joints import joints
from errata.decoder.site import Contexts, Tokens
from errata.errors import ModelError, SubjectNotFound, UnusableFacts
from errata.evaluate.recall import Recall
from errata.fact import Fact
from errata.form import Form
from tests.editing import editor_of
from tests.models import BEGIN, END, FAMILIES, TINY_GROUPS, tiny_tokenizer

TEMPLATE = (
    "{% for m in messages %}<|begin|>{{ m.role }}\n{{ m.content }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}"
)
ASKED = Fact("Where is {}?", "Velm", "Isk", chat=())
CHAT = ASKED.form


def talking(template: str = TEMPLATE) -> Any:
    tokenizer = deepcopy(tiny_tokenizer(bos=True))
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def tokens() -> Tokens:
    return Tokens(talking())


def test_a_chat_is_read_as_the_template_writes_it_with_its_own_bos_and_no_other(tokens: Tokens) -> None:
    form = Form(chat=(("system", "Be brief."),))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is Velm?"}]
    own = tokens.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert tokens.prompt("Where is Velm?", form) == own
    assert own.count(tokens.tokenizer.bos_token_id) == 3


def test_an_answer_begins_the_turn_without_a_space_and_ends_it_where_asked(tokens: Tokens) -> None:
    ids = tokens.answer(" Isk ", ASKED.text, CHAT)
    assert tokens.tokenizer.decode(ids) == "Isk"
    ended = tokens.answer("Isk", ASKED.text, Form(chat=(), end=True))
    assert ended == [*ids, tokens.tokenizer.convert_tokens_to_ids(END)]


def test_an_answer_has_the_space_that_the_template_itself_puts_there() -> None:
    spaced = Tokens(talking("{% for m in messages %}{{ m.role }}: {{ m.content }}<|endoftext|>{% endfor %}"))
    assert spaced.chat.space == ""
    inst = "{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}]{% else %} {{ m.content }} <|endoftext|>"
    tokens = Tokens(talking(inst + "{% endif %}{% endfor %}"))
    assert (tokens.chat.space, tokens.chat.end) == (" ", 0)
    assert tokens.tokenizer.decode(tokens.answer("Isk", "Where is Velm?", CHAT)) == " Isk"


def test_the_decisive_token_ends_the_subject_in_the_users_turn(tokens: Tokens) -> None:
    for prompt, subject in [("Where is {}?", "Saint Orin"), (" {}", "Velm"), ("user of {} is the user", "Velm")]:
        located = tokens.locate(prompt, subject, form=CHAT)
        read = tokens.tokenizer.decode(located.ids[: located.decisive + 1])
        assert read.endswith(prompt.strip().split("{}")[0] + subject)
        assert list(located.ids) == tokens.prompt(prompt.replace("{}", subject), CHAT)


def test_contexts_stand_in_the_users_turn(tokens: Tokens) -> None:
    site = tokens.site([ASKED], Contexts(TINY_GROUPS))
    texts = [tokens.tokenizer.decode(prompt.ids) for prompt in site.places[0].prompts]
    assert texts[1] == f"{BEGIN}user\nThe quick story. Where is Velm?{END}\n{BEGIN}assistant\n"


def test_a_model_without_a_template_is_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match="has no chat template"):
        Tokens(tiny_tokenizer()).site([ASKED], Contexts())


def test_a_template_that_refuses_a_role_or_rewrites_the_prompt_is_refused() -> None:
    strict = Tokens(
        talking("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE)
    )
    with pytest.raises(ModelError, match="refuses a conversation of system, user: 'no system'"):
        strict.prompt("Where is Velm?", Form(chat=(("system", "Be brief."),)))
    loud = Tokens(talking(TEMPLATE.replace("m.content", "m.content | upper")))
    with pytest.raises(UnusableFacts, match="does not write 'Where is Velm\\?' as it is"):
        loud.site([ASKED], Contexts())


def test_the_text_of_a_bos_stays_where_the_tokenizer_puts_none_in_front() -> None:
    tokenizer = deepcopy(tiny_tokenizer())
    tokenizer.bos_token = END
    tokens = Tokens(tokenizer)
    assert tokens.prompt(f"{END}Velm is")[0] == tokenizer.bos_token_id
    assert tokens.locate(f"{END}{{}} is", "Velm").ids[0] == tokenizer.bos_token_id


def test_ids_of_a_target_are_those_of_the_whole_text(tokens: Tokens) -> None:
    for prompt, target in [("Velm (", "a city)"), ("Velm is\n", "  a city"), ("Velm is", "n't"), ("在", "北京")]:
        form = Form(join="") if target == "n't" else Form()
        assert [*tokens.prompt(prompt), *tokens.answer(target, prompt, form)] == tokens.prompt(prompt + target)


def test_joints_that_may_not_be_meant_are_told(tokens: Tokens) -> None:
    facts = [
        Fact("The land, {},", "Velm", "is old"),
        Fact("{} is a c", "Velm", "ity", join=""),
        Fact("{} is", "Velm", "x"),
    ]
    facts.append(Fact("<|begin|>user\nWhere is {}?<|endoftext|>\n", "Velm", "Isk"))
    sign, spanned, rendered = joints(tokens, facts)
    assert "'The land, Velm,' + 'is old': the target follows a sign without a space" in sign
    assert "'Velm is a c' + 'ity': a token of the whole text spans the prompt's end" in spanned
    assert "--chat" in rendered


def test_an_edit_through_the_template_is_held_there_and_ends_the_turn() -> None:
    decoder = Decoder(FAMILIES["llama"](), talking())
    fact = Fact("Where is {}?", "Velm", "Isk", chat=(), end=True)
    outcome = editor_of(decoder, "memit+fe").edit([fact])
    (reading,) = Recall.ask(decoder, [Recall(fact.text, fact.target_new, fact.form)])
    with decoder.unedited():
        (before,) = Recall.ask(decoder, [Recall(fact.text, fact.target_new, fact.form)])
    assert reading.nll < before.nll
    assert len(reading.hits) == len(decoder.answer_ids("Isk", fact.text, CHAT)) + 1
    assert outcome.edit.facts == [fact]


def test_what_is_said_stops_at_the_ends_of_texts_and_turns() -> None:
    decoder = Decoder(FAMILIES["llama"](), talking(TEMPLATE.replace("<|endoftext|>", "<|begin|>")))
    assert decoder.ends == {decoder.tokenizer.convert_tokens_to_ids(token) for token in (BEGIN, END)}
    with pytest.raises(SubjectNotFound):
        decoder.tokens.locate("no slot", "Velm", form=CHAT)
