"""`/v1/videos`: OpenAI's video API, and what this farm adds to it."""
