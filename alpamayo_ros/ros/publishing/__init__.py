"""From a prediction to messages: policies, the table of outputs, and what is sent for each t0."""
