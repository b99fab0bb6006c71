"""The type of an agent's kept state: `state: Account` in its class, a msgspec.Struct with a default for every field."""

from __future__ import annotations

import inspect
import typing
from typing import Any

import msgspec

from swell.errors import AppError, WireError

#: Encoded bytes of one agent's state: it is written again whenever a handler changed it.
MAX_STATE_BYTES = 256 << 10

_encoder = msgspec.msgpack.Encoder()


class StateType:
    """How the state of one agent type is made, encoded and decoded.

    Attributes:
        struct: the class; calling it makes the first state.
    """

    __slots__ = ("_decoder", "struct")

    def __init__(self, struct: type[msgspec.Struct]) -> None:
        self.struct = struct
        self._decoder = msgspec.msgpack.Decoder(struct)

    def encode(self, state: Any) -> bytes:
        """The bytes of a state that can be decoded again: what could not be restored is refused when it is made.

        Raises:
            WireError: it is of another class, a field does not fit its type, or it is too large.
        """
        if type(state) is not self.struct:
            raise WireError(f"self.state must be a {self.struct.__name__}, not {type(state).__name__}")
        try:
            encoded = _encoder.encode(state)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise WireError(f"self.state cannot be kept: {error}") from None
        if len(encoded) > MAX_STATE_BYTES:
            raise WireError(
                f"self.state has {len(encoded)} bytes; at most {MAX_STATE_BYTES} are kept: keep a reference instead"
            )
        self.decode(encoded)
        return encoded

    def decode(self, encoded: bytes) -> Any:
        """A state from its bytes.

        Raises:
            WireError: they do not fit the class; the text names the field.
        """
        try:
            return self._decoder.decode(encoded)
        except Exception as error:  # noqa: BLE001 - a __post_init__ of the user's raises what it likes
            raise WireError(
                f"self.state does not fit {self.struct.__name__}: {type(error).__name__}: {error}"
            ) from None


def state_type(agent: type) -> StateType | None:
    """What an agent class declares as `state`, None if it declares nothing.

    Raises:
        AppError: it is no msgspec.Struct, or one that cannot be made without arguments, encoded and decoded.
    """
    home = next((cls for cls in agent.__mro__ if "state" in inspect.get_annotations(cls)), None)
    if home is None:
        return None
    where = f"{agent.__qualname__}.state"
    # This annotation alone: others may name what only type checkers import.
    alone = {"__module__": home.__module__, "__annotations__": {"state": inspect.get_annotations(home)["state"]}}
    try:
        declared = typing.get_type_hints(type("Alone", (), alone))["state"]
    except (NameError, TypeError) as error:
        raise AppError(f"{where}: its annotation cannot be resolved: {error}") from None
    if not (isinstance(declared, type) and issubclass(declared, msgspec.Struct)):
        raise AppError(f"{where} is declared as {declared!r}; declare it as a class derived from msgspec.Struct")
    required = [field.name for field in msgspec.structs.fields(declared) if field.required]
    if required:
        raise AppError(f"{where}: give {', '.join(required)} of {declared.__name__} a default")
    try:
        kept = StateType(declared)
        kept.encode(declared())
    except (TypeError, WireError) as error:
        raise AppError(f"{where}: {declared.__name__} cannot be kept: {error}") from None
    return kept
