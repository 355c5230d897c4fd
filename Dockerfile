# The image for processors; Dockerfile.cuda is the one for a GPU.
FROM python:3.11-slim
RUN useradd --create-home tastemaker && mkdir /data && chown tastemaker /data
WORKDIR /srv/tastemaker
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY templates templates
COPY static static
COPY migrations migrations
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu '.[postgres]'
USER tastemaker
ENV TASTEMAKER_HOME=/data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz')"]
CMD ["tastemaker", "serve", "--host", "0.0.0.0", "--no-worker"]
