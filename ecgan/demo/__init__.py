"""A page to paint label maps on and see the images; needs the extra ``demo``."""

import os

# Read when Gradio and huggingface_hub load: neither may report anything to anybody.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
