"""Operators: a few lines each; what they do is in `api` and the modules beside it."""

from . import bake, emotion, engine, render, scene, uncertainty

CLASSES = (*scene.CLASSES, *emotion.CLASSES, *uncertainty.CLASSES, *bake.CLASSES, *engine.CLASSES, *render.CLASSES)
