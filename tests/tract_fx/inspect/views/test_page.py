"""The page is one file that is whole, well formed, safe, and says what the explanation knows."""

from __future__ import annotations

import dataclasses
import html
import re
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

import pytest
import sympy
import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from support.explained import EXPLAINED, REWRITTEN, explained
from tract_fx.inspect.cost.formula import formula
from tract_fx.inspect.explanation import explain
from tract_fx.inspect.views.page import render_frame, render_html

VOID = {"meta", "link", "br", "hr", "img", "input"}
# In SVG, elements without content are closed at once.
CLOSED = {"rect", "path", "circle"}
HOSTILE = "<img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """What a page is made of; raises where a tag is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.code = ""
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), "an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in CLOSED
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"style", "script"} & set(self.stack):
            self.code += data
        else:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())

    def values(self, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for _, attrs in self.tags if attribute in attrs]


@pytest.mark.parametrize("name", EXPLAINED)
def test_it_is_well_formed_and_needs_nothing_else(name: str) -> None:
    text = render_html(explained(name))
    page = Page(text)
    assert text.startswith("<!doctype html>")
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    links = page.values("href")
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    for attribute in ("aria-labelledby", "aria-controls"):
        assert set(page.values(attribute)) <= set(ids)
    assert page.values("src") == page.values("srcset") == page.values("action") == []
    assert not re.search(r"url\(|@import|//\w|fetch\(|XMLHttpRequest|import\(", page.code)
    assert "default-src 'none'" in text


@pytest.mark.parametrize("name", EXPLAINED)
def test_the_answer_comes_first(name: str) -> None:
    explanation = explained(name)
    page = Page(render_html(explanation))
    for line in explanation.headlines:
        assert " ".join(line.split()) in page.words
    assert page.words.index(" ".join(explanation.headlines[0].split())) < page.words.rindex("Environment")
    assert explanation.model_name in page.words
    assert str(torch.__version__) in page.words


@pytest.mark.parametrize("name", REWRITTEN)
def test_each_layer_has_two_pictures_and_its_cost(name: str) -> None:
    explanation = explained(name)
    page = Page(render_html(explanation))
    pictures = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    layers = [layer.match.layer or layer.match.weight for layer in explanation.layers]
    assert pictures == [
        f"{side} the pass: the graph around {layer}" for layer in layers for side in ("Before", "After")
    ]
    titles = page.values("title")
    for layer in explanation.layers:
        cost = layer.cost.at()
        for work in (cost.covariance, cost.factorisation, cost.solve, cost.total):
            assert f"{int(work.flops):,} FLOP" in titles
            assert f"{int(work.bytes):,} B" in titles
            assert f"{int(work.memory):,} B" in titles


ALL_THE_SAME = "oneDNN computes the plain one all the same"


@pytest.mark.parametrize(
    ("name", "words"), [("primal", "in float32 where"), ("batched", ""), ("dual", "no longer asks")]
)
def test_it_says_how_the_gradient_is_summed(name: str, words: str) -> None:
    page = Page(render_html(explained(name)))
    assert words in page.words
    assert (ALL_THE_SAME in page.words) == (name == "primal"), "a convolution with a bias"


def test_without_a_bias_and_on_other_devices_the_plain_gradient_is_gone() -> None:
    layer = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Tanh())
    assert ALL_THE_SAME not in Page(render_html(explain(layer, torch.randn(4, 3, 9, 8)))).words
    with mock.patch("tract_fx.ops.operands._is_on_cpu", return_value=False):
        page = Page(render_html(explain(layer, torch.randn(4, 3, 9, 8))))
    assert "G is summed in float64" in page.words
    assert "in float32 where" not in page.words


def test_calls_of_one_layer_are_told_apart() -> None:
    page = Page(render_html(explained("twice")))
    assert page.values("data-tab") == ["stem, call 1", "stem, call 2"]
    assert page.words.count("Everything else is unchanged.") == 1


def test_formulas_are_shown_where_sizes_are_symbols() -> None:
    explanation = explained("dynamic")
    cost = explanation.layers[0].cost
    page = Page(render_html(explanation))
    assert "Formulas in the sizes of the graph" in page.words
    for symbol, value in cost.hints:
        assert f"{symbol} = {value}" in page.words
    assert f"{cost.batch} = 5 (batch)" in page.words
    assert "Formulas" not in Page(render_html(explained("primal"))).words


@pytest.mark.parametrize("name", ["rejected", "no first layer"])
def test_what_is_not_rewritten_has_its_reason_and_what_to_do(name: str) -> None:
    explanation = explained(name)
    page = Page(render_html(explanation))
    assert explanation.rejections
    for rejection in explanation.rejections:
        assert rejection.reason in page.words
        assert " ".join(rejection.advice.split()) in page.words
    assert not [tag for tag, _ in page.tags if tag == "svg"]


def test_graph_breaks_are_numbered_with_their_reasons() -> None:
    explanation = explained("breaks")
    page = Page(render_html(explanation))
    assert len(explanation.graphs) == 2
    assert "All 2 graphs" in page.words
    assert "User-inserted graph break" in page.words
    assert "the function returns" in page.words
    assert "graph-0" in page.values("id")
    assert "graph-1" not in page.values("id")  # nothing in it is rewritten


def test_without_a_script_every_line_is_there_and_can_be_unfolded() -> None:
    """Buttons that only a script serves are hidden until it runs."""
    explanation = explained("stems")
    text = render_html(explanation)
    page = Page(text)
    for node in explanation.graph_after.graph.nodes:
        if node.op == "call_function":
            assert f'<span class="v">{node.name}</span>' in text
    buttons = [attrs for tag, attrs in page.tags if tag == "button"]
    assert all("hidden" in attrs for attrs in buttons)
    panels = [attrs for tag, attrs in page.tags if tag == "article"]
    assert len(panels) == 2
    assert not any("hidden" in attrs for attrs in panels)


def test_whatever_users_call_things_is_only_text() -> None:
    """Names of modules and classes, reasons and notes."""

    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(getattr(self, HOSTILE)(x))

    model = type("<script>alert(2)</script>", (nn.Module,), {"forward": forward})()
    model.add_module(HOSTILE, nn.Conv2d(3, 4, 3))
    explanation = explain(model, torch.randn(2, 3, 6, 5))
    (graph,) = explanation.graphs
    rejections = explained("rejected").rejections
    hostile = dataclasses.replace(
        explanation,
        notes=(HOSTILE,),
        graphs=(
            dataclasses.replace(
                graph,
                break_reason=f"{HOSTILE}\n{HOSTILE}",
                rejections=(dataclasses.replace(rejections[0], reason=HOSTILE, advice=HOSTILE, layer=HOSTILE),),
            ),
            dataclasses.replace(explained("rejected").graphs[0], number=1, break_reason=HOSTILE + "</pre>"),
        ),
    )
    text = render_html(hostile)
    page = Page(text)
    assert HOSTILE in html.unescape(text)
    assert HOSTILE not in text
    assert "<script>alert" not in text
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "img" not in [tag for tag, _ in page.tags]
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]


def test_in_a_notebook_it_is_a_frame_of_its_own() -> None:
    """Its style would otherwise become that of the notebook."""
    explanation = explained("primal")
    frame = Page(render_frame(explanation))
    ((tag, attributes),) = frame.tags
    assert tag == "iframe"
    assert attributes["srcdoc"] == render_html(explanation)
    assert explanation._repr_html_() == render_frame(explanation)


def test_it_is_written_to_a_file(tmp_path: Path) -> None:
    explanation = explained("primal")
    path = explanation.to_html(tmp_path / "page.html")
    assert path.read_text(encoding="utf-8") == render_html(explanation)


def test_formulas_are_set_by_hand() -> None:
    environment = ShapeEnv()
    n, m = (environment.create_unbacked_symint() for _ in range(2))
    size = ((n - 1) // 2 + 1) * m
    s, r = sympy.symbols("s r", positive=True, integer=True)
    text = formula(size.node.expr)
    assert text == "u1·(⌊(u0 - 1)/2⌋ + 1)"
    assert formula(123456 * s**2 * r) == "123\u2009456·r·s<sup>2</sup>"
    assert formula(sympy.Max(s, sympy.floor(r / 3))) == "max(s, ⌊r/3⌋)"


def test_pictures_name_an_input_as_the_code_does() -> None:
    text = render_html(explained("stems"))
    titles = re.findall(r'class="title[^>]*>([^<]*)', text)
    assert all(titles.count(name) >= 2 for name in ("image.weight", "x", "table.weight", "y"))
    assert not any(title.startswith("primals_") for title in titles)
