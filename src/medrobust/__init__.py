"""medrobust: load a model, defend it, attack it, smooth it, tell the result.

The public names are imported when they are first used: importing the package loads neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from medrobust.version import __version__ as __version__

if TYPE_CHECKING:
    from medrobust.data import Dataset as Dataset
    from medrobust.data import Task as Task
    from medrobust.data import load_task as load_task
    from medrobust.data import open_dataset as open_dataset
    from medrobust.data import open_image as open_image
    from medrobust.defences import DEFENCES as DEFENCES
    from medrobust.defences import make_defence as make_defence
    from medrobust.defences.defence import Defence as Defence
    from medrobust.jobs.audit import audit as audit
    from medrobust.jobs.experiment import Choice as Choice
    from medrobust.jobs.experiment import Experiment as Experiment
    from medrobust.jobs.experiment import load_experiment as load_experiment
    from medrobust.jobs.job import Given as Given
    from medrobust.jobs.parts import AttackSettings as AttackSettings
    from medrobust.jobs.parts import AuditSettings as AuditSettings
    from medrobust.jobs.parts import CertifySettings as CertifySettings
    from medrobust.jobs.run import run as run
    from medrobust.models import MODELS as MODELS
    from medrobust.models import load as load
    from medrobust.models.wrap import wrap as wrap
    from medrobust.models.wrap_clip import wrap_clip as wrap_clip
    from medrobust.seeds import stream as stream
    from medrobust.smoothing.certify import Certificate as Certificate
    from medrobust.smoothing.certify import Smoothing as Smoothing
    from medrobust.smoothing.certify import certify as certify
    from medrobust.smoothing.encoding import lean_sampler as lean_sampler
    from medrobust.types import Classifier as Classifier
    from medrobust.types import Preprocess as Preprocess

_MODULES = {  # module, and behind a colon the name there where it is another
    "AttackSettings": "jobs.parts",
    "AuditSettings": "jobs.parts",
    "Certificate": "smoothing.certify",
    "CertifySettings": "jobs.parts",
    "Choice": "jobs.experiment",
    "Classifier": "types",
    "DEFENCES": "defences",
    "Dataset": "data",
    "Defence": "defences.defence",
    "Experiment": "jobs.experiment",
    "Given": "jobs.job",
    "MODELS": "models",
    "Preprocess": "types",
    "Smoothing": "smoothing.certify",
    "Task": "data",
    "audit": "jobs.audit",
    "certify": "smoothing.certify",
    "lean_sampler": "smoothing.encoding",
    "load": "models",
    "load_experiment": "jobs.experiment",
    "load_task": "data",
    "make_defence": "defences",
    "open_dataset": "data",
    "open_image": "data",
    "run": "jobs.run",
    "stream": "seeds",
    "wrap": "models.wrap",
    "wrap_clip": "models.wrap_clip",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'medrobust' has no attribute {name!r}")
    module, _, attribute = _MODULES[name].partition(":")
    return getattr(import_module(f"medrobust.{module}"), attribute or name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
