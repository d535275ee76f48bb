"""From a plain talking-head video to a data set folder: `python -m engine prepare VIDEO OUT`. `pipeline.prepare` does it all."""
