"""An extension of griffe: what `takes_arguments_of(other)` decorates is shown with the parameters of `other`."""

import re
from typing import Any

import griffe


class TakesArgumentsOf(griffe.Extension):
    """griffe reads sources without running them, so it cannot see what the decorator does."""

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        for decorator in func.decorators:
            if (other := re.fullmatch(r"takes_arguments_of\((\w+)\)", str(decorator.value))) and func.parent:
                func.parameters = func.parent[other[1]].parameters
