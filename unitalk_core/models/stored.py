"""Configurations that travel with their weights as JSON."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, TypeVar

Config = TypeVar("Config", bound="StoredConfig")


class StoredConfig:
    """Base of a frozen dataclass of plain values: `to_json` and `from_json` are each other's inverse."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]  # every subclass is a dataclass

    @classmethod
    def from_json(cls: type[Config], data: dict[str, Any]) -> Config:
        """Read what `to_json` wrote; a field that does not exist is a ValueError."""
        unknown = sorted(data.keys() - {f.name for f in fields(cls)})  # type: ignore[arg-type]
        if unknown:
            raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}")
        return cls(**{name: _frozen(value) for name, value in data.items()})


def _frozen(value: Any) -> Any:
    """JSON knows lists only; a frozen dataclass holds tuples."""
    return tuple(_frozen(one) for one in value) if isinstance(value, (list, tuple)) else value
