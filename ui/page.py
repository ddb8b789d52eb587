"""The page: what to make, how to run it, and what it took."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
from PIL import Image

import streamline

from .readout import Run, show_reading, show_runs
from .studio import Reading, Stopped, Studio

STREAMLINED, ORIGINAL = "Streamlined", "Original"
MODELS = {model.name: model for model in streamline.MODELS}
RUNS_SHOWN = 6
WAITING = 20  # runs at once, of which the studio works on one; half of gradio's threads, so that Stop gets one
PROMPTS = (
    "a red circle moving left on a black background",
    "a green star spinning on a navy background",
    "an orange ring growing on a white background",
)
PICTURES = sorted(map(str, (Path(__file__).parents[1] / "assets" / "examples").glob("*.png")))
OWN = "0 is what the model is made for"


def build() -> gr.Blocks:
    """The page, with models of its own; launch it with ui.THEME and ui.CSS."""
    studio = Studio()

    def make(
        model: str,
        prompt: str,
        image: Image.Image | None,
        way: str,
        slices: int,
        steps: int | None,
        frames: int | None,
        seed: int | None,
        guidance_scale: float | None,
        runs: list[Run],
        request: gr.Request,
    ) -> Iterator[tuple]:
        reads_text = MODELS[model].task == "text-to-video"
        given = {
            "prompt": prompt if reads_text else None,
            "num_inference_steps": steps,
            "num_frames": frames or None,
            "seed": seed,
            "guidance_scale": guidance_scale or None,
        }
        given = {name: value for name, value in given.items() if value is not None}
        try:
            plan = streamline.Plan.uniform(slices) if way == STREAMLINED else None
            readings = studio.make(request.session_hash, model, given, plan, None if reads_text else image)
            for reading in readings:
                if reading.result is None:
                    yield gr.skip(), show_reading(reading), gr.skip(), gr.skip()
            with tempfile.TemporaryDirectory() as folder:
                result = reading.result
                path = streamline.export(result.frames, Path(folder) / f"{model}.mp4", result.job.fps)
                label = f"{slices} slices" if way == STREAMLINED else "original"
                run = Run(f"{model}, {label}", result.seconds, result.peak_bytes, result.weights_bytes)
                runs = [*runs, run][-RUNS_SHOWN:]
                yield str(path), show_reading(reading), show_runs(runs), runs
        except Stopped:
            yield gr.skip(), show_reading(Reading("Stopped")), gr.skip(), gr.skip()
        except Exception as error:
            sentence = _sentence(error)
            yield gr.skip(), show_reading(Reading("Not made", trouble=sentence)), gr.skip(), gr.skip()
            raise gr.Error(sentence, visible=False, print_exception=False) from None  # for those who call the API

    def end(request: gr.Request) -> None:
        studio.stop(request.session_hash)

    with gr.Blocks(title="Streamlined Inference", analytics_enabled=False) as demo:
        gr.Markdown(
            "# Streamlined Inference\nVideo diffusion in a fraction of the memory, with the same result.",
            elem_id="title",
        )
        runs = gr.State([])
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                model = gr.Dropdown(
                    [(_label(entry), entry.name) for entry in MODELS.values()],
                    value=next(iter(MODELS)),
                    label="Model",
                    info=next(iter(MODELS.values())).about,
                )
                with gr.Column(visible=True) as text_input:
                    prompt = gr.Textbox(PROMPTS[0], label="Prompt", lines=2, max_lines=5)
                    gr.Examples([[text] for text in PROMPTS], prompt, label="For the tiny model")
                with gr.Column(visible=False) as image_input:
                    image = gr.Image(
                        PICTURES[0],
                        type="pil",
                        label="Image",
                        height=240,
                        sources=["upload", "clipboard"],
                        image_mode=None,
                    )
                    gr.Examples([[picture] for picture in PICTURES], image, label="For the tiny model")
                way = gr.Radio([STREAMLINED, ORIGINAL], value=STREAMLINED, label="How to run it")
                slices = gr.Slider(
                    1,
                    16,
                    value=4,
                    step=1,
                    precision=0,
                    label="How finely to slice",
                    info="1 is whole. More slices need less memory and more time.",
                )
                with gr.Accordion("More", open=False):
                    with gr.Row():
                        steps = gr.Number(25, label="Steps", precision=0, minimum=1)
                        seed = gr.Number(2, label="Seed", precision=0, minimum=0)
                    with gr.Row():
                        frames = gr.Number(0, label="Frames", info=OWN, precision=0, minimum=0)
                        guidance_scale = gr.Number(0, label="Guidance", info=OWN, minimum=0)
                with gr.Row():
                    start = gr.Button("Make the video", variant="primary", size="lg", scale=3)
                    stop = gr.Button("Stop", size="lg", scale=1)
            with gr.Column(scale=6, min_width=360):
                video = gr.Video(
                    label="Video", height=400, autoplay=True, loop=True, interactive=False, elem_id="video"
                )
                reading = gr.HTML(show_reading(Reading("Nothing made yet")))
                comparison = gr.HTML(show_runs([]))

        model.change(_inputs, model, [model, text_input, image_input], show_progress="hidden")
        way.change(lambda way: gr.update(interactive=way == STREAMLINED), way, slices, show_progress="hidden")
        start.click(
            make,
            [model, prompt, image, way, slices, steps, frames, seed, guidance_scale, runs],
            [video, reading, comparison, runs],
            show_progress="hidden",
            concurrency_limit=WAITING,
        )
        stop.click(end, concurrency_limit=None)
    return demo


def _sentence(error: Exception) -> str:
    """What went wrong, for people; errors of streamline say it themselves."""
    if isinstance(error, streamline.StreamlineError):
        return str(error)
    first_line = str(error).strip().partition("\n")[0].rstrip(".")
    return ": ".join(filter(None, ("Something went wrong", type(error).__name__, first_line))) + "."


def _label(model: streamline.Model) -> str:
    return f"{model.name} ({model.task.replace('-', ' ')}{'' if model.is_here else ', to be downloaded'})"


def _inputs(name: str) -> tuple:
    """What a model wants: a prompt or an image."""
    model = MODELS[name]
    reads_text = model.task == "text-to-video"
    return gr.update(info=model.about), gr.update(visible=reads_text), gr.update(visible=not reads_text)
