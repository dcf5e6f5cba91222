"""`compare`: what changed between two searches or two evaluations, wording by wording where their items were kept."""
