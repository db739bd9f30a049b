"""How every training begins, one or several: what can be refused is refused, and the pictures are
looked at, decoded while they are open, and divided."""

from __future__ import annotations

from fieldmark.assembly.network import check_network, check_weights, settle_for
from fieldmark.assembly.pictures import draw_parts, look_for_copies
from fieldmark.data.manifest import Manifest
from fieldmark.data.pixels.plan import check_device
from fieldmark.data.prepare import ready_ahead
from fieldmark.progress import Progress
from fieldmark.recipe import Recipe
from fieldmark.runtime import Runtime, open_runtime


def open_checked(recipe: Recipe) -> Runtime:
    """The recipe's runtime; what would be refused in the end is refused before anything is looked
    at.

    Raises:
        FieldmarkError: no such device, precision, network or weights, or they do not go together.
    """
    runtime = open_runtime(recipe.device, recipe.precision)
    check_device(recipe.data.cache, runtime.device)
    check_network(recipe)
    check_weights(recipe)
    return runtime


def look_and_divide(
    found: Manifest, likely: Manifest, recipe: Recipe, runtime: Runtime, progress: Progress
) -> tuple[Manifest, Manifest, frozenset[str]]:
    """Look for copies, decode what is open for that, and put every picture in a part.

    Args:
        found: the pictures of the source.
        likely: the same in the parts in which they will be if there are no copies.
        recipe: not settled, with what the weights bring.

    Returns:
        `found` with copies tied together; that in parts; and keys of the contents that were stored
        (`prepare_data`'s `stored_ahead`).
    """
    with ready_ahead(likely, settle_for(recipe, likely)[0], runtime, progress) as ahead:
        found = look_for_copies(found, recipe, progress, ahead)
    stored = frozenset(ahead.stored) if ahead else frozenset()
    return found, draw_parts(found, recipe), stored
