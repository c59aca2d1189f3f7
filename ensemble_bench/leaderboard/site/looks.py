"""Colours of the recipes on the page: those of the figures, as far from each background as a reader needs."""

from ensemble_bench.registry import RECIPES

BACKGROUNDS = {"light": "#ffffff", "dark": "#15181b"}  # --back of style.css
CONTRAST = 3.0  # of a mark with what is around it (WCAG 2.1, 1.4.11)
OTHER = "other"


def look_of(recipe: str) -> str:
    """The class of a recipe's marks; all that are no recipe share one."""
    known = RECIPES.get(recipe)
    return f"r-{recipe if known is not None and known.look is not None else OTHER}"


def recipe_styles() -> str:
    """The rules that give each recipe its colour, on a light and on a dark page."""
    looks = {name: recipe.look[0] for name, recipe in RECIPES.items() if recipe.look is not None}
    light, dark = (
        [f".r-{name} {{ color: {visible(colour, back)}; }}" for name, colour in looks.items()]
        for back in BACKGROUNDS.values()
    )
    return "\n".join([*light, "@media (prefers-color-scheme: dark) {", *dark, "}", ""])


def visible(colour: str, background: str) -> str:
    """`colour`, mixed with black or white until it stands out from `background`."""
    own, back = _channels(colour), luminance(background)
    towards = 0.0 if back > 0.5 else 1.0
    for share in range(21):
        mixed = [channel + (towards - channel) * share / 20 for channel in own]
        text = "#" + "".join(f"{round(255 * channel):02x}" for channel in mixed)
        if _contrast(luminance(text), back) >= CONTRAST:
            break
    return text


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb", as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: float, other: float) -> float:
    dark, light = sorted((one, other))
    return (light + 0.05) / (dark + 0.05)


def _channels(colour: str) -> list[float]:
    return [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
