"""What every role builds on: pure rules, narrow interfaces and the adapters behind them."""
