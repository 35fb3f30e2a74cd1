"""The findings as one HTML page with thumbnails, which opens without a network."""

from utils.core.errors import UserError
from utils.core.images import load_image
from utils.core.pages import data_address, page_environment

MOST = 50  # findings of one kind on the page
SIDE = 160  # px of a thumbnail

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }}: dataset report</title><style>
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 70rem; margin: auto; padding: 1rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
td.number { text-align: right; } figure { display: inline-block; margin: 0 .5rem .5rem 0; max-width: 100%; }
img { display: block; max-width: {{ side }}px; image-rendering: auto; } figcaption { font-size: .8rem; overflow-wrap: anywhere;
max-width: {{ side }}px; } section > p { margin: .4rem 0; } li { margin-bottom: .8rem; }
</style></head><body>
<h1>{{ name }}</h1>
<p>{{ images }} images in {{ classes|length }} classes. {{ total }} findings.</p>
<h2>Images</h2>
<table><tr><th>class</th>{% for split in counts %}<th>{{ split }}</th>{% endfor %}</tr>
{% for class in classes %}<tr><td>{{ class }}</td>{% for split in counts.values() %}<td class="number">{{ split[class] }}</td>
{% endfor %}</tr>{% endfor %}</table>
{% for kind, found in findings.items() %}<section><h2>{{ kind }} ({{ found|length }})</h2><ul>
{% for finding in found[:most] %}<li><p>{{ finding.words }}. Suggestion: {{ finding.action }}.</p>
{% for path in finding.paths[:8] %}<figure>{% set image = thumbnail(path) %}
{% if image %}<img alt="" src="{{ image }}">{% endif %}
<figcaption>{{ path }}</figcaption></figure>{% endfor %}</li>{% endfor %}</ul>
{% if found|length > most %}<p>and {{ found|length - most }} more (--json has all)</p>{% endif %}</section>{% endfor %}
</body></html>
"""


def render(name, classes, counts, findings, broken=()):
    """The page as text.

    counts: {split: {class: images}}; findings: {kind: [Finding]}; broken: paths of files that have no thumbnail.
    Names are escaped, so that none is taken for markup.
    """
    template = page_environment().from_string(TEMPLATE)
    return template.render(
        name=name,
        classes=classes,
        counts=counts,
        findings=findings,
        images=sum(sum(split.values()) for split in counts.values()),
        total=sum(map(len, findings.values())),
        thumbnail=lambda path: None if path in broken else _thumbnail(path),
        most=MOST,
        side=SIDE,
    )


def _thumbnail(path):
    """A small image as a data address, or None for a file that shows nothing."""
    try:
        return data_address(load_image(path), SIDE)
    except UserError:
        return None
