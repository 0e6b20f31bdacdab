"""What a gateway may ask of a box from afar, and what the box answers: commands and configuration (JSON).

Whoever writes these topics has the gateway's rights, yet every byte is checked: strict forms, bounded
sizes, a fixed vocabulary. Nothing in here names code to run or a place to fetch from.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal, TypeVar, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError
from pydantic import Field as Constrained
from trisense.core import limits
from trisense.core.config import mistakes_of
from trisense.core.errors import Mistake, RemoteError
from trisense.core.logs import Level

__all__ = [
    "COMMANDS",
    "COMMAND_BYTES",
    "CONTENT_BYTES",
    "LIST_MAX",
    "REPLY_BYTES",
    "VERBS",
    "BusChange",
    "Command",
    "ConfigState",
    "Desired",
    "Difference",
    "Failure",
    "FieldChange",
    "LogLevel",
    "MistakeJson",
    "OneDevice",
    "Read",
    "Reload",
    "Replay",
    "Reply",
    "Reported",
    "Restart",
    "ShowConfig",
    "Snapshot",
    "TellStatus",
    "Verb",
    "arguments_of",
    "check_content",
    "command_of",
    "content_hash",
    "desired_of",
    "reply_of",
    "report_text",
    "reported_of",
]

COMMAND_BYTES: Final = 8 * 1024
CONTENT_BYTES: Final = 96 * 1024
"""Largest configuration, in UTF-8: written as JSON it still fits into one payload."""
REPLY_BYTES: Final = limits.PAYLOAD_BYTES
LIST_MAX: Final = 200
"""Entries of one list in a report; what is beyond is counted in words."""
WORDS_MAX: Final = 1000
"""Characters of one text about a mistake."""
REPORT_BYTES: Final = limits.PAYLOAD_BYTES

DeviceName = Annotated[str, Constrained(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Hash = Annotated[str, Constrained(pattern=r"^[0-9a-f]{64}$")]
Verb = Literal["read", "snapshot", "restart", "log-level", "replay", "reload", "show-config", "status"]
ConfigState = Literal["running", "checking", "trial", "rejected", "rolled_back", "superseded", "checked"]
VERBS: Final[tuple[Verb, ...]] = get_args(Verb)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class Nothing(_Strict):
    """No arguments."""


class OneDevice(_Strict):
    device: DeviceName
    """Name of the device, as the box's configuration has it."""


class NewLevel(_Strict):
    level: Level
    """debug, info, warning or error."""
    minutes: Annotated[float, Constrained(gt=0, le=24 * 60, allow_inf_nan=False)] = 15.0
    """After so long the configured level comes back by itself."""


class Span(_Strict):
    since: AwareDatetime | None = None
    """Earliest commit time; none: from the oldest batch that is kept."""
    until: AwareDatetime | None = None
    """Latest commit time; none: to now."""


class _Command(_Strict):
    v: Literal[1] = 1
    deadline: AwareDatetime
    """ISO 8601 with a zone. A box whose clock can be trusted does nothing after it."""


class Read(_Command):
    """Read a device now and answer with its samples."""

    verb: Literal["read"] = "read"
    arguments: OneDevice


class Snapshot(_Command):
    """Take a picture now; it travels as media, the answer names it."""

    verb: Literal["snapshot"] = "snapshot"
    arguments: OneDevice


class Restart(_Command):
    """Close a device and connect it anew."""

    verb: Literal["restart"] = "restart"
    arguments: OneDevice


class LogLevel(_Command):
    """Log more or less for a while."""

    verb: Literal["log-level"] = "log-level"
    arguments: NewLevel


class Replay(_Command):
    """Send batches again that the gateway had receipted before."""

    verb: Literal["replay"] = "replay"
    arguments: Span = Span()


class Reload(_Command):
    """Read the box's own configuration file again."""

    verb: Literal["reload"] = "reload"
    arguments: Nothing = Nothing()


class ShowConfig(_Command):
    """Answer with the configuration that runs."""

    verb: Literal["show-config"] = "show-config"
    arguments: Nothing = Nothing()


class TellStatus(_Command):
    """Answer with what ``trisense edge status`` shows at the box."""

    verb: Literal["status"] = "status"
    arguments: Nothing = Nothing()


Command = Read | Snapshot | Restart | LogLevel | Replay | Reload | ShowConfig | TellStatus


class Failure(_Strict):
    """Why a command was not done."""

    reason: Annotated[str, Constrained(max_length=64)]
    """One word for programs: invalid, unknown_verb, not_allowed, expired, busy, no_such_device, timeout,
    cannot, failed."""
    detail: str
    """For people: what was expected, what came."""


class Reply(_Strict):
    """A box's answer to one command."""

    v: Literal[1] = 1
    ok: bool
    result: dict[str, JsonValue] | None = None
    error: Failure | None = None


class Desired(_Strict):
    """A configuration that a box shall run (retained), or is only asked about (``dry_run``, not retained)."""

    v: Literal[1] = 1
    hash: Hash
    """SHA-256 of ``content`` in UTF-8."""
    content: str
    """A whole configuration file, TOML."""
    health_s: Annotated[float, Constrained(ge=1, le=3600, allow_inf_nan=False)] | None = None
    """How long the box may take to prove itself healthy with it; none: what the box is configured for."""
    dry_run: bool = False
    """Answer with mistakes and difference; change nothing."""
    attempt: Annotated[int, Constrained(ge=0, le=2**53)] = 0
    """The same content is not tried again after a failure; with another number here it is."""


class MistakeJson(_Strict):
    where: str
    expected: str
    got: str

    @classmethod
    def of(cls, mistake: Mistake) -> MistakeJson:
        """The mistake, cut where whoever made it could make the report too large to be sent."""
        return cls(where=_cut(mistake.where), expected=_cut(mistake.expected), got=_cut(mistake.got))


def _cut(text: str) -> str:
    return text if len(text) <= WORDS_MAX else text[: WORDS_MAX - 3] + "..."


class FieldChange(_Strict):
    device: str
    measurement: str
    field: str
    change: Literal["appears", "vanishes", "changes"]
    before: str | None = None
    """Unit and type, such as ``Cel float``."""
    after: str | None = None


class BusChange(_Strict):
    line: str
    before: float | None
    """Share of the line's time that is used, 0 to 1 and beyond; none: no such line."""
    after: float | None
    fits: bool
    """Whether the line can hold its devices afterwards."""


class Difference(_Strict):
    """What a new configuration changes."""

    summary: list[str] = []
    """For people, the gravest first; empty: nothing changes."""
    devices_added: list[str] = []
    devices_removed: list[str] = []
    devices_changed: list[str] = []
    fields: list[FieldChange] = []
    buses: list[BusChange] = []
    settings: list[str] = []
    """Key paths of other tables that change, such as ``mqtt.host``."""


class Reported(_Strict):
    """What a box runs, and what became of the configuration desired last (retained)."""

    v: Literal[1] = 1
    running: Hash
    """SHA-256 of the configuration at work."""
    source: Literal["local", "remote"]
    """The box's own file, or one that came from a gateway."""
    state: ConfigState
    """running: at work and proven. trial: at work, to be proven within ``health_s``. rejected: never put to
    work. rolled_back: was at work, is no more. superseded: the box's own file changed, and wins.
    checked: answer to a dry run."""
    desired: Hash | None = None
    """The desired configuration that ``state`` speaks of."""
    attempt: int = 0
    reason: str = ""
    mistakes: list[MistakeJson] = []
    difference: Difference | None = None
    since: str
    """ISO 8601 UTC by the box's own clock."""


def content_hash(content: str) -> str:
    """SHA-256 of a configuration, 64 hex digits."""
    return hashlib.sha256(content.encode()).hexdigest()


_COMMAND: Final[TypeAdapter[Command]] = TypeAdapter(Annotated[Command, Constrained(discriminator="verb")])
COMMANDS: Final[dict[str, type[Command]]] = {
    get_args(model.model_fields["verb"].annotation)[0]: model for model in get_args(Command)
}
"""The form of each verb's command."""

Model = TypeVar("Model", bound=BaseModel)


def arguments_of(command: type[Command]) -> list[str]:
    """Names of the arguments of a command, in their order."""
    arguments = command.model_fields["arguments"].annotation
    return list(getattr(arguments, "model_fields", ()))


def command_of(payload: bytes) -> Command:
    """Decode a command.

    Raises:
        RemoteError: ``invalid`` or ``unknown_verb``, with what is known.
    """
    if len(payload) > COMMAND_BYTES:
        raise RemoteError("invalid", f"expected at most {COMMAND_BYTES} bytes, got {len(payload)}")
    try:
        return _COMMAND.validate_json(payload)
    except ValidationError as error:
        kinds = {item["type"] for item in error.errors(include_url=False, include_input=False)}
        if kinds & {"union_tag_invalid", "union_tag_not_found"}:
            raise RemoteError("unknown_verb", f"expected verb to be one of {', '.join(VERBS)}") from error
        raise RemoteError("invalid", _mistakes(error) + _known(error)) from error


def reply_of(payload: bytes) -> Reply:
    """Decode a reply.

    Raises:
        RemoteError: it is none.
    """
    return _decoded(payload, Reply, REPLY_BYTES)


def desired_of(payload: bytes) -> Desired:
    """Decode a desired configuration; its content is not looked at yet, see ``check_content``.

    Raises:
        RemoteError: too large, or of another form.
    """
    return _decoded(payload, Desired, limits.PAYLOAD_BYTES)


def report_text(reported: Reported) -> str:
    """A report as JSON that fits into a payload, without its lists where it must be: one that the broker does
    not take would end the connection, and the next one, for ever.
    """
    text = reported.model_dump_json()
    if len(text.encode()) <= REPORT_BYTES:
        return text
    reason = _cut(reported.reason) + f" (the whole report exceeds {REPORT_BYTES} bytes)"
    return reported.model_copy(
        update={"reason": reason, "mistakes": [], "difference": None}
    ).model_dump_json()


def check_content(desired: Desired) -> None:
    """Compare the content with its hash and with what a box takes.

    Raises:
        RemoteError: too large, or another hash than it says.
    """
    size = len(desired.content.encode())
    if size > CONTENT_BYTES:
        raise RemoteError("too_large", f"expected at most {CONTENT_BYTES} bytes of content, got {size}")
    if content_hash(desired.content) != desired.hash:
        raise RemoteError(
            "hash", f"expected content with the hash {desired.hash}, got {content_hash(desired.content)}"
        )


def reported_of(payload: bytes) -> Reported:
    """Decode what a box reports.

    Raises:
        RemoteError: it is none.
    """
    return _decoded(payload, Reported, limits.PAYLOAD_BYTES)


def _decoded(payload: bytes, model: type[Model], limit_bytes: int) -> Model:
    if len(payload) > limit_bytes:
        raise RemoteError("invalid", f"expected at most {limit_bytes} bytes, got {len(payload)}")
    try:
        return model.model_validate_json(payload)
    except ValidationError as error:
        raise RemoteError("invalid", _mistakes(error)) from error


def _mistakes(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return f"expected JSON, got {first['ctx']['error']}"
    found = mistakes_of(error)
    shown = "; ".join(str(mistake) for mistake in found[:5])
    return f"{shown}; and {len(found) - 5} more" if len(found) > 5 else shown


def _known(error: ValidationError) -> str:
    """The arguments of the verb that was asked for, where one of them was wrong."""
    for item in error.errors(include_url=False, include_input=False):
        verb = item["loc"][0] if item["loc"] else None
        model = COMMANDS.get(str(verb))
        if model is not None and "arguments" in item["loc"]:
            return f"; arguments of {verb}: {', '.join(arguments_of(model)) or 'none'}"
    return ""
