"""The benchmarks' own formats: each module knows one publisher's rows and makes problems of them."""
