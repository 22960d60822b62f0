# The sidecars image: one static binary and the root certificates, nothing
# else, and no base image. "make image" lays the context out and builds it.
FROM scratch
COPY sidecars /sidecars
COPY etc /etc
# A fresh volume takes the owner of the folder that it covers.
COPY --chown=65532:65532 var/lib/airlock /var/lib/airlock
COPY --chown=65532:65532 run/airlock /run/airlock
USER 65532:65532
VOLUME ["/var/lib/airlock"]
EXPOSE 8888 9099 9100 9418 9420
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/sidecars", "ctl", "health"]
ENTRYPOINT ["/sidecars"]
CMD ["supervisor"]
