"""The vision-language model: loading it, prompting it, and running it on packed batches."""
