"""The OpenAI Images API, for models that know classes and not words."""
