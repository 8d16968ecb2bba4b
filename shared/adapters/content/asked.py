"""What a request to the gateway asks for: a block or an archive, and which one.

`format` comes before `Accept` (IPIP-523), for browsers send an `Accept` of their own; a CAR's version, order and
duplicates are taken from `Accept` first and from `car-*` else, as the specification has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aiohttp import ETag, web

from shared.content.cid import codec_of
from shared.content.cid_forms import canonical_form
from shared.content.selection import EVERY_BYTE, DagScope, EntityBytes, Selection, parse_entity_bytes
from shared.errors import CodecError
from shared.types import Cid

RAW = "application/vnd.ipld.raw"
CAR = "application/vnd.ipld.car"
PROBE = Cid("bafkqaaa")  # the empty block, in an identity CID; the one that is served
_FORMATS = {"raw": RAW, "car": CAR}
_SERVED = f"only {RAW} (format=raw) and {CAR} (format=car; version=1, order=dfs, dups=y or n) are served"
# What of a CAR can be asked for. Depth first is one of the orders that `unk` leaves open.
_CAR_PARAMETERS = {"version": ("1",), "order": ("dfs", "unk"), "dups": ("y", "n")}


@dataclass(frozen=True, slots=True)
class Asked:
    """One form of the content under one CID."""

    cid: Cid
    media_type: str
    scope: DagScope = DagScope.ALL
    span: EntityBytes = EVERY_BYTE
    is_repeating: bool = False

    @property
    def form(self) -> str:
        return "raw" if self.media_type == RAW else "car"

    @property
    def etag(self) -> ETag:
        """Another one for all that makes other bytes. A range of a block keeps the block's, or If-Range would fail."""
        names = [self.cid, self.form]
        names += [self.scope] if self.scope is not DagScope.ALL else []
        names += [str(self.span)] if self.span != EVERY_BYTE else []
        names += ["dups"] if self.is_repeating else []
        return ETag(value=".".join(names), is_weak=self.media_type == CAR)

    @property
    def content_type(self) -> str:
        return (
            RAW if self.media_type == RAW else f"{CAR}; version=1; order=dfs; dups={'y' if self.is_repeating else 'n'}"
        )

    @property
    def location(self) -> str:
        """Its own address, whatever `Accept` said."""
        query = f"format={self.form}"
        query += f"&dag-scope={self.scope}" if self.scope is not DagScope.ALL else ""
        query += f"&entity-bytes={self.span}" if self.span != EVERY_BYTE else ""
        query += "&car-dups=y" if self.is_repeating else ""
        return f"/ipfs/{self.cid}?{query}"

    def selection(self) -> Selection:
        return Selection(self.cid, scope=self.scope, span=self.span, is_repeating=self.is_repeating)


def read_request(cid: str, query: Mapping[str, str], accept: Sequence[str]) -> Asked:
    """`accept`: the values of all `Accept` headers. Raises `HTTPBadRequest`, `HTTPNotAcceptable`."""
    root = _read_cid(cid)
    chosen = _choose(query.get("format"), _read_accept(accept), has_accept=bool(accept))
    if chosen.media_type == RAW:
        return Asked(root, RAW)
    if root == PROBE:
        raise web.HTTPBadRequest(text=f"{PROBE} is a block and no file: ask for format=raw")
    parameters = {name: query[f"car-{name}"] for name in _CAR_PARAMETERS if f"car-{name}" in query} | chosen.parameters
    if not _is_served(parameters):
        raise web.HTTPNotAcceptable(text=_SERVED)
    try:
        span = parse_entity_bytes(query["entity-bytes"]) if "entity-bytes" in query else EVERY_BYTE
        scope = _read_scope(query.get("dag-scope", DagScope.ENTITY if "entity-bytes" in query else DagScope.ALL))
    except CodecError as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    return Asked(root, CAR, scope, span, parameters.get("dups") == "y")


def _read_cid(text: str) -> Cid:
    if text == PROBE:
        return PROBE
    try:
        codec_of(Cid(text))
    except CodecError as error:
        raise web.HTTPBadRequest(text=_other_form(text) or f"{error}; expected {_CANONICAL}") from error
    return Cid(text)


_CANONICAL = "a CIDv1, raw or dag-pb, SHA-256, in base32 lower case"


def _other_form(text: str) -> str | None:
    """No redirect: who compares CIDs as text has to know this one."""
    try:
        return f"this CID is written {canonical_form(text)} here: {_CANONICAL}"
    except CodecError:
        return None


def _read_scope(text: str) -> DagScope:
    try:
        return DagScope(text)
    except ValueError:
        raise CodecError("dag-scope: expected block, entity or all") from None


# --- Accept --------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Range:
    """One element of `Accept` that names a type of ours."""

    media_type: str
    quality: float = 1.0
    parameters: dict[str, str] = field(default_factory=dict)


def _choose(name: str | None, ranges: Sequence[_Range], *, has_accept: bool) -> _Range:
    """The best of what is served: nothing is ever assembled into a file, so no wildcard means anything here."""
    if name is None and not has_accept:
        raise web.HTTPBadRequest(text=f"neither format nor Accept says what is wanted: {_SERVED}")
    if name is not None:
        wanted = _FORMATS.get(name)
        ranges = [found for found in ranges if found.media_type == wanted]
        if wanted is not None and not ranges:
            return _Range(wanted)
    served = [found for found in ranges if found.quality > 0 and _is_served(found.parameters)]
    if not served:
        raise web.HTTPNotAcceptable(text=_SERVED)
    return max(served, key=lambda found: found.quality)  # of equals, the first


def _read_accept(values: Sequence[str]) -> list[_Range]:
    ranges = [_read_range(text) for value in values for text in value.split(",")]
    return [found for found in ranges if found is not None]


def _read_range(text: str) -> _Range | None:
    media_type, *rest = (part.strip().lower() for part in text.split(";"))
    if media_type not in _FORMATS.values():
        return None
    cut = [part.partition("=") for part in rest]
    pairs = {name.strip(): value.strip().strip('"') for name, _, value in cut}
    parameters = {name: pairs[name] for name in _CAR_PARAMETERS if media_type == CAR and pairs.get(name)}
    return _Range(media_type, _quality(pairs.get("q", "1")), parameters)


def _quality(text: str) -> float:
    """0 to 1; what is no such number says nothing, and counts as 1."""
    whole, _, thousandths = text.partition(".")
    is_number = whole in ("0", "1") and len(thousandths) <= 3 and (thousandths or "0").isdecimal()
    return min(1.0, float(text)) if is_number else 1.0


def _is_served(parameters: Mapping[str, str]) -> bool:
    return all(value in _CAR_PARAMETERS[name] for name, value in parameters.items())
