"""``python -m llmservingsim`` is ``llmservingsim``."""

from llmservingsim.cli.main import main

main()
