from engine.priors.sentences import *  # noqa
from engine.priors import sentences as _m  # noqa
globals().update({k: v for k, v in vars(_m).items() if not k.startswith("__")})
