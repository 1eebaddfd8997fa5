"""The endpoint: pictures over HTTP as the OpenAI Images API speaks it. Ray only in `app`."""
