"""Model cards: what a model is, how it was trained and what was measured, in Markdown."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from ensemble_bench.records import Record
from ensemble_bench.records.markup import markdown
from ensemble_bench.records.text import natural

TEMPLATE = """\
---
library_name: ensemble-bench
pipeline_tag: image-classification
tags:
- adversarial-robustness
- ensemble
---

# {{ name|text }}

An image classifier for {{ data_name|text }}: {{ network|text }}, {{ "{:,}".format(parameters) }} parameters.
Images are in [0, 1]; the model normalises them itself.
{% if credit %}

{{ credit|line }}
{% endif %}

## Robustness

Worst case over all attacks of each suite within {{ threat|text }}, on the first images of the test split, with 95 %
Wilson intervals.

| suite | images | clean accuracy | robust accuracy |
|---|---|---|---|
{% for r in records %}
| {{ r.suite|text }} | {{ r.n }} | {{ r.clean|percent }} | {{ r.robust|percent }} |
{% endfor %}

{% if warnings %}
Signs that these numbers are too good:

{% for warning in warnings %}
- {{ warning|line }}
{% endfor %}
{% else %}
The evaluation found no sign of masked gradients.
{% endif %}

## Training, as its maker says

| | |
|---|---|
{% for key, value in training %}
| {{ key }} | {{ value|text }} |
{% endfor %}

## Use

Published in a folder `leaderboards/`, it loads by its name:

```python
import ensemble_bench as eb

model = eb.load("zoo:{{ name }}")
```

Weights: `{{ weights_hash }}` (safetensors).
"""
# Keys of a training's description that a card lists, where they are present.
TRAINING = (
    "recipe",
    "preset",
    "dataset",
    "seed",
    "seeds",
    "steps",
    "step",
    "threat",
    "objective",
    "precision",
    "commit",
)


def render(name: str, config: Mapping[str, Any], records: Sequence[Record], *, credit: str = "") -> str:
    """The card of the model called `name` with this config.json and these records of the whole model.

    `credit` is a line on who made it.
    """
    whole = sorted((r for r in records if r.view is None), key=lambda r: (natural(r.suite), r.n, r.seed))
    about, meta = config["architecture"], config["meta"]
    return _template().render(
        name=name,
        data_name=whole[0].data_name,
        network=_network(about),
        parameters=whole[0].parameters,
        credit=credit,
        threat=whole[0].threat,
        records=whole,
        warnings=sorted({f"{w.name}: {w.message} ({r.suite})" for r in whole for w in r.warnings}),
        training=[(key, _text(meta[key])) for key in TRAINING if meta.get(key) is not None],
        weights_hash=config["weights_hash"],
    )


@functools.cache
def _template() -> Template:
    # Names and hashes, which are in code too, hold no markup; other texts are made harmless one by one.
    environment = Environment(autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "text": _one, "line": lambda text: markdown(text, line=True)}
    return environment.from_string(TEMPLATE)


def _one(value: object) -> str:
    return markdown(str(value))


def _network(about: Mapping[str, Any]) -> str:
    backbone = "-".join(_text(about[key]) for key in ("backbone", "depth", "width") if about[key] is not None)
    if about["members"] == 1:
        return backbone
    gate = ", weighted by a gating network" if about["gated"] else ""
    return f"{about['members']} × {backbone}, aggregation {about['aggregation']}{gate}"


def _percent(score: Any) -> str:
    return f"{100 * score.accuracy:.1f} % [{100 * score.ci_low:.1f}, {100 * score.ci_high:.1f}]"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
