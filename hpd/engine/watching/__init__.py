"""What is measured and told while a run goes on: reports, cost, forecasts, trackers."""
