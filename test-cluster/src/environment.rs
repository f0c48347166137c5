//! The environment of a container, as a kubelet makes it: fixed values, fields of the pod, and
//! references from one to another. It reads no ConfigMap and no Secret.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Container, Pod};

/// What a pod gets to know of the place where it runs.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// The pod's address.
    pub(crate) pod_ip: IpAddr,
    /// Where the API server is reached.
    pub(crate) api_server: SocketAddr,
}

/// All variables of a container.
///
/// # Errors
///
/// When a variable takes its value from something that is not played here.
pub(crate) fn of(
    container: &Container,
    pod: &Pod,
    at: &Surroundings,
) -> anyhow::Result<BTreeMap<String, String>> {
    let fixed = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("HOSTNAME", pod.metadata.name.clone().unwrap_or_default()),
        ("KUBERNETES_SERVICE_HOST", at.api_server.ip().to_string()),
        ("KUBERNETES_SERVICE_PORT", at.api_server.port().to_string()),
        ("KUBERNETES_SERVICE_PORT_HTTPS", at.api_server.port().to_string()),
    ];
    let mut all: BTreeMap<String, String> =
        fixed.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    if container.env_from.as_ref().is_some_and(|from| !from.is_empty()) {
        bail!("envFrom is not played");
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(from)) => {
                let field = from.field_ref.as_ref();
                let field = field.with_context(|| format!("{} is not a field", variable.name))?;
                field_of(pod, at, &field.field_path)?
            }
            (value, None) => expand(value.as_deref().unwrap_or_default(), &all),
        };
        all.insert(variable.name.clone(), value);
    }
    Ok(all)
}

/// A field of the pod by its path, as the downward API has it.
///
/// # Errors
///
/// When it is none of those that are played.
pub(crate) fn field_of(pod: &Pod, at: &Surroundings, path: &str) -> anyhow::Result<String> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let keyed = |map: &Option<BTreeMap<String, String>>, rest: &str| {
        let key = rest.trim_start_matches("['").trim_end_matches("']");
        map.as_ref().and_then(|map| map.get(key)).cloned()
    };
    let value = match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.podIP" => Some(at.pod_ip.to_string()),
        "status.hostIP" => Some("127.0.0.1".to_owned()),
        _ => match path.split_once('[') {
            Some(("metadata.labels", _)) => {
                keyed(&metadata.labels, &path["metadata.labels".len()..])
            }
            Some(("metadata.annotations", _)) => {
                keyed(&metadata.annotations, &path["metadata.annotations".len()..])
            }
            _ => bail!("the field {path} is not played"),
        },
    };
    Ok(value.unwrap_or_default())
}

/// Replaces `$(NAME)` by the variable's value, unless there is no such variable; `$$` is a dollar sign.
pub(crate) fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
            continue;
        }
        let named = rest.strip_prefix('(').and_then(|inside| inside.split_once(')'));
        match named.and_then(|(name, after)| Some((variables.get(name)?, after))) {
            Some((value, after)) => {
                expanded.push_str(value);
                rest = after;
            }
            None => expanded.push('$'),
        }
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_as_a_kubelet_does() {
        let variables = BTreeMap::from([("IP".to_owned(), "127.1.2.3".to_owned())]);
        assert_eq!(expand("--listen=$(IP):80", &variables), "--listen=127.1.2.3:80");
        assert_eq!(expand("$$(IP) $(NONE) $IP $", &variables), "$(IP) $(NONE) $IP $");
    }
}
