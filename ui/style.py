"""How the page looks. Fonts are the system's own, so that nothing is fetched from elsewhere."""

import gradio as gr

SANS = ["system-ui", "-apple-system", "Segoe UI", "Helvetica Neue", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.indigo,
    neutral_hue=gr.themes.colors.slate,
    radius_size=gr.themes.sizes.radius_lg,
    font=SANS,
    font_mono=MONO,
).set(block_label_text_weight="500", button_large_text_weight="600")

CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
#title h1 { font-size: 1.7rem; letter-spacing: -0.02em; margin: 0.4rem 0 0.1rem; }
#title p { color: var(--body-text-color-subdued); margin: 0; }
#video video { image-rendering: pixelated; }

.readout { font-variant-numeric: tabular-nums; }
.readout .status { display: flex; justify-content: space-between; margin-bottom: 0.4rem;
  color: var(--body-text-color-subdued); font-size: 0.85rem; }
.readout .trouble { margin: 0 0 0.5rem; font-weight: 500; }
.readout .track { height: 6px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden; }
.readout .track > i { display: block; height: 100%; background: var(--color-accent);
  transition: width 0.3s ease-out; }
.readout .figures { display: grid; grid-template-columns: repeat(4, 1fr); gap: 0.75rem; margin: 1rem 0; }
.readout .figures div { border: 1px solid var(--border-color-primary); border-radius: 10px;
  padding: 0.6rem 0.8rem; }
.readout .figures b { display: block; font-size: 1.25rem; font-weight: 600; white-space: nowrap; }
.readout .figures span { color: var(--body-text-color-subdued); font-size: 0.78rem; }
.readout svg { display: block; width: 100%; height: 64px; }
.readout .caption { color: var(--body-text-color-subdued); font-size: 0.78rem; margin: 0 0 0.3rem; }

.runs { font-variant-numeric: tabular-nums; font-size: 0.85rem; }
.runs .run { display: grid; grid-template-columns: 10.5rem 1fr 4.5rem 3.5rem; gap: 0.75rem; align-items: center;
  padding: 0.3rem 0; }
.runs .bar { display: flex; height: 16px; border-radius: 4px; overflow: hidden;
  background: var(--background-fill-secondary); }
.runs .weights { background: var(--neutral-400); }
.runs .activations { background: var(--color-accent); }
.runs .right { text-align: right; white-space: nowrap; }
.runs .note { color: var(--body-text-color-subdued); font-size: 0.78rem; margin: 0.2rem 0 0; }
.runs .legend { color: var(--body-text-color-subdued); font-size: 0.78rem; margin-top: 0.4rem; }
.runs .legend i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin: 0 0.35rem 0 0; }
.runs .legend i + span { margin-right: 1rem; }
@media (max-width: 700px) {
  .readout .figures { grid-template-columns: repeat(2, 1fr); }
  .runs .run { grid-template-columns: 7rem 1fr 5rem; }
  .runs .run .seconds { display: none; }
}
"""
