"""Model cards: a stranger's Markdown as HTML that can do no harm."""

from collections.abc import Iterable, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

HEADING_BELOW = 2  # the page's own headings


def to_html(card: str, *, name: str = "") -> Markup:
    """Render a card's Markdown: raw HTML becomes text, links lead to http(s) only, and nothing is loaded.

    A block of metadata at its head (as the Hugging Face Hub reads it) is left out, and so is a first heading that says
    no more than the `name` of the model, which heads the page.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    parser.validateLink = lambda url: url.startswith(("https://", "http://"))  # type: ignore[method-assign]
    tokens = parser.parse(_body(card))
    if name and len(tokens) > 2 and tokens[0].type == "heading_open" and tokens[1].content.strip() == name:
        tokens = tokens[3:]  # opened, its text, closed
    for token in _all(tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + HEADING_BELOW, 6)}"
        elif token.type == "link_open":
            token.attrSet("rel", "nofollow noopener noreferrer")
        elif token.type in ("th_open", "td_open"):
            token.attrs.pop("style", None)  # the content security policy forbids it
            if token.tag == "th":
                token.attrSet("scope", "col")
    return Markup(parser.renderer.render(tokens, parser.options, {}))


def _body(card: str) -> str:
    head, rule, body = card.partition("\n---\n")
    return body if rule and head.startswith("---\n") else card


def _all(tokens: Sequence[Token]) -> Iterable[Token]:
    for token in tokens:
        yield token
        yield from _all(token.children or ())
