"""The app: python app.py [options], or `demo` for a Hugging Face Space."""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib.util
import logging
import os
import signal
import sys
import threading
from importlib.metadata import version
from pathlib import Path


def options_of(arguments: list[str]) -> argparse.Namespace:
    """The command line, checked before anything heavy is loaded."""
    parser = argparse.ArgumentParser(description="Make videos in the browser.", allow_abbrev=False)
    parser.add_argument("--listen", action="store_true", help="let other machines on the network in")
    parser.add_argument("--port", type=int, help="port to listen on (the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="make a public link through gradio.live")
    parser.add_argument("--auth", metavar="USER:PASS", help="ask for this name and password")
    parser.add_argument("--root-path", default="", help="path under which a proxy serves the app")
    parser.add_argument("--inbrowser", action="store_true", help="open the page in the browser")
    parser.add_argument("--window", action="store_true", help="open the page in a window of its own (needs pywebview)")
    parser.add_argument("--offline", action="store_true", help="use only what is on this machine")
    parser.add_argument("--emulate", metavar="CARD", default="", help="pretend to have a card, like 8GiB")
    parser.add_argument("--output-dir", type=Path, help="where videos are kept (outputs/gallery)")
    parser.add_argument("--mcp", action="store_true", help="offer the endpoints to language models (needs gradio[mcp])")
    options = parser.parse_args(arguments)
    if options.port is not None and not 1 <= options.port <= 65535:
        parser.error(f"a port is a number from 1 to 65535, not {options.port}")
    if options.auth is not None:
        user, _, password = options.auth.partition(":")
        if not user or not password:
            parser.error("--auth wants a name and a password, like --auth ann:secret")
        options.auth = (user, password)
    for flag, module, package in (
        ("window", "webview", "pywebview"),
        ("mcp", "mcp", f"'gradio[mcp]=={version('gradio')}'"),
    ):
        if getattr(options, flag) and importlib.util.find_spec(module) is None:
            parser.error(f"--{flag} needs a package that is not installed: pip install {package}")
    return options


options = options_of(sys.argv[1:] if __name__ == "__main__" else [])
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as in launch.sh; read when torch is first imported
if options.offline:
    os.environ["HF_HUB_OFFLINE"] = "1"

# Registered first, so it comes last, when temporary folders are gone; threads that still plan would have Python abort.
is_over = threading.Event()
atexit.register(lambda: is_over.is_set() and os._exit(0))
gc.disable()  # what is imported stays: looking for garbage in it takes a second and a half of the start
import streamline  # noqa: E402  # after the environment is set
import ui  # noqa: E402

output_dir = (options.output_dir or ui.OUTPUT_DIR).absolute()
try:
    ui.log_to_stderr()
    is_public = options.listen or options.share or "SPACE_ID" in os.environ
    demo = ui.build(output_dir, options.emulate, options.offline, is_public)
except streamline.InputError as error:
    print(f"app.py: {error}", file=sys.stderr)
    sys.exit(2)
gc.freeze()  # nor is it looked through later
gc.enable()

if __name__ == "__main__":
    if (options.listen or options.share) and options.auth is None:
        print(
            "Anyone who can reach this address can use the app; --auth USER:PASS keeps strangers out.", file=sys.stderr
        )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends it, temporary folders go with it
    try:
        _, address, _ = demo.launch(
            server_name="0.0.0.0" if options.listen else None,
            server_port=options.port,
            share=options.share,
            auth=options.auth,
            root_path=options.root_path or None,
            inbrowser=options.inbrowser,
            mcp_server=options.mcp,
            allowed_paths=[str(output_dir)],  # what is in it has names that only its owner is told
            prevent_thread_lock=options.window,
            **ui.LAUNCH,
        )
    except OSError as error:
        if "port" not in str(error):
            raise
        print(f"app.py: Port {options.port} is used by another program; choose one with --port.", file=sys.stderr)
        sys.exit(1)
    if options.window:
        import webview

        webview.create_window("Streamlined Inference", address, width=1280, height=900)
        webview.start()
    logging.disable()  # a thread that still plans stumbles over what Python takes down now, which tells nobody anything
    sys.stdout.flush()
    is_over.set()
