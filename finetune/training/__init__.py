"""Training an adapter: batches, forward pass, loss and loop.

`run` trains and evaluates in one call. `batches` draws questions and wordings, `prefix_states` computes the frozen part
once, `forward` and `loss` compute a step, `loop` takes all steps (`cuda_graphs` on a GPU, `checkpoint` for
interruptions, `validation` for questions asked after every epoch, `trackers` for logs), and `sensitivity` measures the
gradient before any training. Other packages import `run.train_and_evaluate`, `loop`, `batches` and `sensitivity`.
"""
