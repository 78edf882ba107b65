"""Run one experiment or a sweep: `python run.py strategy=lora data=pydocs_topics seed=1`."""

from llmexp.cli import entry

if __name__ == "__main__":
    entry("run")
