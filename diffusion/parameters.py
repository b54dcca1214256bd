"""Access to parameters by name, as in scikit-learn's estimators."""

from __future__ import annotations

import inspect
from typing import Any, Self

from .errors import DiffusionError


class Parameters:
    """An estimator that stores the keyword arguments of its `__init__` as attributes.

    It follows scikit-learn's contract without deriving from `sklearn.base.BaseEstimator`, whose
    import takes longer than that of this package.
    """

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name; `deep` is ignored, scikit-learn passes it."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **parameters: Any) -> Self:
        """Set parameters; those of queries take effect immediately, the others at the next fit.

        Raises
        ------
        DiffusionError
            If there is no parameter with that name.
        """
        known = self.get_params()
        for name, value in parameters.items():
            if name not in known:
                raise DiffusionError(f"{name}: no such parameter; expected one of {list(known)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        changed = ", ".join(
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if value != defaults[name].default
        )
        return f"{type(self).__name__}({changed})"

    def __sklearn_tags__(self) -> Any:
        """Return the tags of an estimator of its own kind, neither classifier nor transformer."""
        from sklearn.utils import Tags, TargetTags

        second = list(inspect.signature(self.fit).parameters.values())[1]  # type: ignore[attr-defined]
        required = second.default is inspect.Parameter.empty
        return Tags(estimator_type=None, target_tags=TargetTags(required=required))
