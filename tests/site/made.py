"""Results that were made up here, and a look at the pages made from them."""

import base64
import html.parser
import json
import re

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5Er"
                       "kJggg==")


def part(value, low, high, threshold=0.02, side="above", verdict="supported", **more):
    return {"name": "difference: R→N minus untrained", "what": "robust accuracy", "value": value, "low": low,
            "high": high, "level": 0.95, "threshold": threshold, "null_value": None if side == "within" else 0,
            "side": side, "statistic": "seeds", "seeds": 3, "images": 2000, "p": 0.001, "p_holm": 0.004,
            "verdict": verdict, **more}


def asked(parts):
    """What must hold in each comparison of these parts."""
    names = ("what", "statistic", "side", "threshold", "null_value")
    return list({one["what"]: {name: one[name] for name in names} for one in parts}.values())


def claim(key, verdict, parts=(), asks="paper", **more):
    return {"id": key, "statement": f"Statement of {key} with a < b | c", "asks": asks, "verdict": verdict,
            "at_best": "", "withheld": "", "parts": list(parts), "asked": asked(parts),
            "paper_value": "0.93", "paper_source": "Fig. 3",
            "protocol": "PGD-20, 8/255", "figure": "curves", "reason": "", "margins_hash": "abc", "p": 0.01,
            "p_holm": 0.02, "preconditions": [], **more}


def card(**more):
    return {"notebook": "stitching", "title": "Stitching", "profile": "laptop", "status": "ok", "error": None,
            "parameters": {"seeds": 3}, "overrides": {"stitching.epochs": "3"}, "first_seed": 100,
            "versions": {"torch": "2.15.0"}, "commit": "0123456789ab",
            "warnings": [], "device": "cpu: x86_64", "threads": 2, "seconds": 754.2, "flops": 3.2e15, "seeds": 3,
            "networks": ["k1", "k2"], "started": "2026-01-01T10:00:00Z", "finished": "2026-01-01T10:12:34Z",
            "expected_false_decisions": 0.1, **more}


CLAIMS = [claim("C1a", "supported", [part(0.12, 0.08, 0.16), part(0.1, 0.05, 0.15, name="difference: N→R")]),
          claim("C2", "contradicted", [part(-0.05, -0.08, -0.03, verdict="contradicted")]),
          claim("C3", "undecided", [part(0.03, -0.01, 0.07, verdict="undecided")],
                reason="the interval reaches across the margin"),
          claim("C4", "not tested", reason="needs <CIFAR-10>", paper_value=None),
          claim("C5", "weak", [part(0.01, 0.005, 0.015, verdict="weak")], "control"),
          claim("C6", "absent", [part(0.001, -0.005, 0.015, verdict="absent")], "ours")]


def write(folder, name, card=None, claims=None):
    place = folder / name
    for sub in ("tables", "figures"):
        (place / sub).mkdir(parents=True)
    if card is not None:
        (place / "card.json").write_text(json.dumps(card))
    if claims is not None:
        (place / "claims.json").write_text(json.dumps(claims))
    (place / "tables" / "cells.csv").write_text("a,network\n1,0123456789abcdef\n")
    rows = [f"C1a,difference,R→N minus untrained,difference,{s},{v},2000" for s, v in enumerate((0.11, 0.13, 0.12))]
    head = "claim,part,instance,statistic,seed,value,over"
    (place / "tables" / "evidence.csv").write_text("\n".join([head, *rows]))
    (place / "figures" / "curves.png").write_bytes(PNG)
    (place / "notebook.html").write_text("<html></html>")
    return place


class Page(html.parser.HTMLParser):
    """Checks that tags are closed, and collects what the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.ids, self.loaded, self.text = [], [], set(), [], text
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in ("meta", "link", "img", "br", "hr", "input"):
            self.open.append(tag)
        if "id" in attrs:
            assert attrs["id"] not in self.ids, f"two elements are called {attrs['id']}"
            self.ids.add(attrs["id"])
        if tag == "a":
            self.links.append(attrs["href"])
        self.loaded += [attrs[k] for k in ("src", "srcset") if k in attrs] + ([attrs["href"]] if tag == "link" else [])

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in ("meta", "link", "img", "br", "hr", "input"):
            assert self.open.pop() == tag, tag

    def check_alone(self, folder=None):
        """Nothing is loaded from anywhere but files in the folder, and links within the page arrive."""
        outside = [address for address in self.loaded if not address.startswith("data:")]
        assert all(folder and (folder / address).is_file() for address in outside), outside
        assert "@import" not in self.text and not re.search(r"url\((?!data:)", self.text)
        assert {link[1:] for link in self.links if link.startswith("#")} <= self.ids
