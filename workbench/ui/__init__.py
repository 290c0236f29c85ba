"""The page: Gradio over the engine, one module per tab, no logic beyond presentation."""
