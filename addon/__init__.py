"""Blender's side. Imported without Blender it is empty, so that `addon.core` can be used in plain Python."""


def register() -> None:
    """Switch the extension on."""
    from . import registration

    registration.register()


def unregister() -> None:
    """Switch the extension off."""
    from . import registration

    registration.unregister()
