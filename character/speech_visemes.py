from engine.priors.visemes import *  # noqa
from engine.priors import visemes as _m  # noqa
globals().update({k: v for k, v in vars(_m).items() if not k.startswith("__")})
