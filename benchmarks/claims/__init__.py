"""The papers' central claims in miniature, on real data: method against the baseline it beats.

python -m benchmarks.claims                 # every claim
python -m benchmarks.claims t_jepa --seeds 5
python -m benchmarks.claims --table         # only rewrite docs/claims.md from stored results
"""
