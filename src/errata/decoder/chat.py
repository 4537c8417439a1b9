"""Chat: a model's own chat template. How it writes a conversation, and what ends an answer in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from errata.errors import ModelError, printable
from errata.form import Turns

_USER, _ANSWER = "Where is it?", "Nowhere"
"""A conversation from which the template's own ways are read."""


@dataclass(frozen=True)
class Chat:
    """The chat template of a tokenizer."""

    tokenizer: Any

    def asked(self, turns: Turns, text: str) -> str:
        """The conversation up to where the model's answer to `text`, a user's turn, begins. Raises ModelError."""
        return self._written([*turns, ("user", text)], add_generation_prompt=True)

    @property
    def space(self) -> str:
        """What the template puts in front of an answer; mostly nothing."""
        return self._around[0] if self._around else ""

    @property
    def end(self) -> int | None:
        """The id that ends an answer; None if the template has none of its own, or there is no template."""
        if not self._around:
            return None
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        ids = self.tokenizer(self._around[1], add_special_tokens=False)["input_ids"]
        return next((token for token in ids if token in special), None)

    @cached_property
    def _around(self) -> tuple[str, str] | None:
        """What the template writes in front of an answer and behind it."""
        if not getattr(self.tokenizer, "chat_template", None):
            return None
        asked = self.asked((), _USER)
        try:
            whole = self._written([("user", _USER), ("assistant", _ANSWER)], add_generation_prompt=False)
        except ModelError:
            return None
        before, found, behind = whole.rpartition(_ANSWER)
        if not found:
            return None
        space = before[len(asked) :] if before.startswith(asked) else ""
        return "" if space.strip() else space, behind  # more than white space is an empty thought, not the answer's

    def _written(self, turns: list[tuple[str, str]], add_generation_prompt: bool) -> str:
        if not getattr(self.tokenizer, "chat_template", None):
            raise ModelError(
                "this model's tokenizer has no chat template, so facts cannot be asked as a chat. Nothing was changed. "
                "Write them as plain prompts, or take a model that is tuned for chat."
            )
        messages = [{"role": role, "content": text} for role, text in turns]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=add_generation_prompt
                )
            )
        except TemplateError as error:
            roles = ", ".join(role for role, _ in turns)
            raise ModelError(
                f"this model's chat template refuses a conversation of {roles}: {printable(str(error))}. Nothing was "
                "changed."
            ) from error
