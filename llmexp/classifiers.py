"""What may be put on pooled features: a linear layer, an MLP, a named scikit-learn classifier."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal, NamedTuple

from llmexp.errors import UserError, did_you_mean


class Named(NamedTuple):
    """A scikit-learn class, our changes to its defaults, and whether it wants scaled features."""

    target: str
    changes: dict[str, Any]
    scaled: bool


SKLEARN = {
    "logistic_regression": Named("linear_model.LogisticRegression", {"max_iter": 1000}, False),
    "random_forest": Named("ensemble.RandomForestClassifier", {"n_jobs": -1}, False),
    "extra_trees": Named("ensemble.ExtraTreesClassifier", {"n_jobs": -1}, False),
    "gradient_boosting": Named("ensemble.HistGradientBoostingClassifier", {}, False),
    "decision_tree": Named("tree.DecisionTreeClassifier", {}, False),
    "knn": Named("neighbors.KNeighborsClassifier", {}, False),
    "naive_bayes": Named("naive_bayes.GaussianNB", {}, False),
    "lda": Named("discriminant_analysis.LinearDiscriminantAnalysis", {}, False),
    "svm": Named("svm.SVC", {}, True),
    "linear_svm": Named("svm.LinearSVC", {}, True),
}
# What these hold beyond what skops trusts by itself: arrays and numbers of scikit-learn's own.
TRUSTED = [
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
]
Name = Literal[
    "linear",
    "mlp",
    "logistic_regression",
    "random_forest",
    "extra_trees",
    "gradient_boosting",
    "decision_tree",
    "knn",
    "naive_bayes",
    "lda",
    "svm",
    "linear_svm",
]


def _class(name: str) -> Any:
    module, _, cls = SKLEARN[name].target.rpartition(".")
    return getattr(import_module(f"sklearn.{module}"), cls)


def check_options(name: str, options: dict[str, Any]) -> None:
    """A misspelt argument is one sentence, before any feature is computed."""
    if name not in SKLEARN:
        if options:
            raise UserError(
                f"strategy.options: they are arguments of a scikit-learn classifier; {name} has "
                "strategy.hidden and strategy.dropout"
            )
        return
    known = list(_class(name)().get_params())
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known)
            raise UserError(f"strategy.options.{option}: {name} takes no such argument; {hint}")


def needs_calibration(name: str) -> bool:
    """Whether it gives no probabilities of its own, so that they are fitted on held-out folds."""
    # SVC has the method only with probability=True, which scikit-learn is taking away.
    return not hasattr(_class(name)(), "predict_proba")


def sklearn_classifier(
    name: str, options: dict[str, Any], seed: int, fewest: int, notes: list[str]
) -> Any:
    """An unfitted classifier with `predict_proba`; `fewest` is the size of the smallest class."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    changes = SKLEARN[name].changes | options
    made = _class(name)(**changes)
    if "random_state" in made.get_params() and "random_state" not in options:
        made.set_params(random_state=seed)
    if SKLEARN[name].scaled:
        made = make_pipeline(StandardScaler(), made)
    if not needs_calibration(name):
        return made
    if fewest < 2:
        raise UserError(
            f"strategy.classifier: {name} gives no probabilities, and fitting them needs two rows "
            "of each class; logistic_regression works with one"
        )
    from sklearn.calibration import CalibratedClassifierCV

    folds = min(5, fewest)
    notes.append(f"{name} gives no probabilities; sigmoid calibration on {folds} folds adds them")
    return CalibratedClassifierCV(made, ensemble=False, cv=folds)
