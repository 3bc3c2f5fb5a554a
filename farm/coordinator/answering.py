"""How the coordinator answers calls from other processes: each comes with its caller."""

from typing import Any

from farm.caller import Caller, called_by
from farm.model.farm_api import FarmApi


class Answering:
    """What a coordinator has besides FarmApi's methods, to be called as an actor."""

    async def called(self, caller: Caller, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Call a method of FarmApi for a caller, whom everything that it does is known by."""
        if method.startswith("_") or not hasattr(FarmApi, method):
            raise AttributeError(f"a farm has no method {method}")
        with called_by(caller):
            return await getattr(self, method)(*arguments, **keywords)
