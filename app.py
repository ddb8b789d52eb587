"""The app: python app.py [options], or `demo` for a Hugging Face Space."""

import argparse
import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in launch.sh; read when torch is first imported

import ui

demo = ui.build()

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make videos in the browser.")
    parser.add_argument("--port", type=int, help="port to listen on (the first free one from 7860)")
    options = parser.parse_args()
    demo.launch(server_port=options.port, **ui.LAUNCH)
