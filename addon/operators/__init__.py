"""Operators: a few lines each; what they do is in `api` and the modules beside it."""

from . import bake, engine, render, scene

CLASSES = (*scene.CLASSES, *bake.CLASSES, *engine.CLASSES, *render.CLASSES)
