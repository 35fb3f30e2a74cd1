# The wheels bring CUDA with them; the host needs only the NVIDIA driver and its container toolkit.
FROM python:3.12-slim

ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1

RUN useradd --create-home --uid 1000 toolkit \
    && mkdir /app \
    && chown toolkit:toolkit /app
WORKDIR /app

COPY requirements.txt constraints.txt ./
RUN python -m pip install -r requirements.txt -c constraints.txt

COPY --chown=toolkit:toolkit . .
USER 1000
EXPOSE 6006

CMD ["python", "train.py", "--help"]
