"""`faithfulness bench ensemble`: the toy ensemble beside a loop of train_transcoder."""
