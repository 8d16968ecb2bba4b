"""All cheats, by name, in an order that stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from poi.cheats.adaptive import adaptive_cheats
from poi.cheats.cheat import Cheat
from poi.cheats.form import form_cheats
from poi.cheats.models import model_cheats
from poi.cheats.outputs import output_cheats
from poi.cheats.prompts import prompt_cheats
from poi.cheats.sampling import sampling_cheats
from poi.cheats.spoof import spoofed_cheats


def _all() -> Iterator[Cheat]:
    models, prompts, outputs = list(model_cheats()), list(prompt_cheats()), list(output_cheats())
    yield from models
    yield from prompts
    yield from sampling_cheats()
    yield from form_cheats()
    yield from outputs
    hidden = [cheat for cheat in prompts if not cheat.name.endswith("declared")]
    yield from spoofed_cheats([*models, *hidden, *outputs])
    yield from adaptive_cheats()


CHEATS: Final[Mapping[str, Cheat]] = {cheat.name: cheat for cheat in _all()}
