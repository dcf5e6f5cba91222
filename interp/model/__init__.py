"""The vision-language model: loading, prompting and running it on packed batches."""
